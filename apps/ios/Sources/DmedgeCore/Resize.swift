// SPDX-License-Identifier: Apache-2.0
import Foundation

private let precision = 22  // bits behind the point of a weight: 32, less 8 of a pixel and 2 to spare

/// How pixels are weighed; the support grows with the factor by which a picture shrinks, which is antialiasing.
///
/// Source: Pillow, src/libImaging/Resample.c.
enum Filter {
    case bilinear, bicubic, lanczos, nearest

    init(named name: String) throws {
        switch name {
        case "bilinear-antialiased": self = .bilinear
        case "bicubic-antialiased": self = .bicubic
        case "lanczos-antialiased": self = .lanczos
        case "nearest": self = .nearest
        default: throw BundleError("preprocessing has resample \(name); this code does not know it")
        }
    }

    var support: Double { self == .lanczos ? 3 : self == .bicubic ? 2 : 1 }

    func weight(_ x: Double) -> Double {
        let t = abs(x)
        switch self {
        case .bilinear: return max(0, 1 - t)
        case .bicubic: return t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? (((t - 5) * t + 8) * t - 4) * -0.5 : 0
        case .lanczos: return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0
        case .nearest: return 1
        }
    }

    private func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(x * .pi) / (x * .pi) }
}

extension Rgb {
    /// To the last bit as Pillow 13 resizes.
    func resize(_ wide: Int, _ high: Int, _ filter: Filter) -> Rgb {
        if filter == .nearest { return nearest(wide, high) }
        func across(_ from: Rgb) -> Rgb { wide == from.width ? from : from.resample(wide, from.height, filter) }
        func down(_ from: Rgb) -> Rgb { high == from.height ? from : from.resample(from.width, high, filter) }
        // The order decides how the first pass rounds.
        let isDownFirst = height > high && height - high > 2 * (width - wide)
        return isDownFirst ? across(down(self)) : down(across(self))
    }

    /// Rows to `wide`, or else columns to `high`, with weights in fixed point.
    private func resample(_ wide: Int, _ high: Int, _ filter: Filter) -> Rgb {
        let isAcross = wide != width
        let (length, wanted, lines) = isAcross ? (width, wide, high) : (height, high, wide)
        let (next, line) = isAcross ? (3, 3 * width) : (3 * width, 3)  // bytes to the next of a line, to the next line
        let (nextTo, lineTo) = isAcross ? (3, 3 * wide) : (3 * wide, 3)
        var found = [UInt8](repeating: 0, count: wide * high * 3)
        for place in 0..<wanted {
            let (first, weights) = Rgb.weights(place, length, wanted, filter)
            for row in 0..<lines {
                for channel in 0..<3 {
                    var sum = 1 << (precision - 1)
                    var at = row * line + first * next + channel
                    for weight in weights {
                        sum += Int(data[at]) * weight
                        at += next
                    }
                    found[row * lineTo + place * nextTo + channel] = UInt8(min(255, max(0, sum >> precision)))
                }
            }
        }
        return Rgb(width: wide, height: high, data: found)
    }

    /// Of one output pixel: the first input pixel it reads, and the weights of that and the following ones.
    private static func weights(_ place: Int, _ length: Int, _ wanted: Int, _ filter: Filter) -> (Int, [Int]) {
        let scale = Double(length) / Double(wanted)
        let blur = max(1, scale)
        let support = filter.support * blur
        let centre = (Double(place) + 0.5) * scale
        let first = max(0, Int(centre - support + 0.5))
        let end = min(length, Int(centre + support + 0.5))
        let weights = (first..<end).map { filter.weight((Double($0) - centre + 0.5) * (1 / blur)) }
        let total = weights.reduce(0, +)
        let one = Double(1 << precision)
        return (first, weights.map { Int($0 / (total == 0 ? 1 : total) * one + ($0 < 0 ? -0.5 : 0.5)) })
    }

    private func nearest(_ wide: Int, _ high: Int) -> Rgb {
        let (columns, rows) = (Rgb.places(width, wide), Rgb.places(height, high))
        let found = rows.flatMap { row in
            columns.flatMap { column in data[3 * (row * width + column)..<3 * (row * width + column) + 3] }
        }
        return Rgb(width: wide, height: high, data: found)
    }

    private static func places(_ length: Int, _ wanted: Int) -> [Int] {
        let step = Double(length) / Double(wanted)
        var at = step * 0.5
        return (0..<wanted).map { _ in
            defer { at += step }
            return min(length - 1, Int(at))
        }
    }
}
