// SPDX-License-Identifier: Apache-2.0

private let longest = 50  // times the short side, of a picture that is resized by its short side

/// A picture to the pixels that the image program takes, as preprocessor_config.json describes them.
public struct Preprocess {
    public let size: Int
    private let background: [Int]
    private let fit: String
    private let filter: Filter
    private let shortestEdge: Int?

    /// - Throws: `BundleError`, where the description is not one that this code knows
    public init(_ config: Any) throws {
        guard let table = config as? Table, let size = table["size"] as? Int, let fit = table["fit"] as? String,
            let background = table["background"] as? [Int], let resample = table["resample"] as? String,
            ["squash", "pad-centre", "crop-centre"].contains(fit)
        else { throw BundleError("preprocessing is \(config); this code does not know it") }
        (self.size, self.background, self.fit) = (size, background, fit)
        filter = try Filter(named: resample)
        shortestEdge = table["shortest_edge"] as? Int
    }

    /// Bytes [size, size, 3].
    public func callAsFunction(_ picture: Picture) -> [UInt8] {
        let rgb = picture.flatten(background)
        switch fit {
        case "squash": return rgb.resize(size, size, filter).data
        case "pad-centre": return pad(rgb)
        default: return crop(rgb, shortestEdge ?? size)
        }
    }

    private func pad(_ rgb: Rgb) -> [UInt8] {
        let scale = Double(size) / Double(max(rgb.width, rgb.height))
        let sides = [rgb.width, rgb.height].map { max(1, Int((Double($0) * scale).rounded(.toNearestOrEven))) }
        var square = Rgb(width: size, height: size, data: (0..<size * size * 3).map { UInt8(background[$0 % 3]) })
        let resized = rgb.resize(sides[0], sides[1], filter)
        let (x, y) = ((size - sides[0]) / 2, (size - sides[1]) / 2)
        square.paste(resized, left: 0, top: 0, x: x, y: y, wide: sides[0], high: sides[1])
        return square.data
    }

    private func crop(_ rgb: Rgb, _ edge: Int) -> [UInt8] {
        let short = min(rgb.width, rgb.height)
        let middle = rgb.crop(min(rgb.width, longest * short), min(rgb.height, longest * short))
        let scaled = [middle.width, middle.height].map { $0 == short ? edge : edge * $0 / short }
        let resized = middle.resize(scaled[0], scaled[1], filter)
        var square = Rgb(width: size, height: size, data: [UInt8](repeating: 0, count: size * size * 3))
        let (across, down) = (overlap(resized.width), overlap(resized.height))
        square.paste(
            resized, left: across.from, top: down.from, x: across.to, y: down.to, wide: across.length, high: down.length)
        return square.data
    }

    /// Where the middle of a side lies in the square, and what of the side that is; an odd pixel goes after a crop.
    private func overlap(_ side: Int) -> (from: Int, to: Int, length: Int) {
        (max(0, side - size) / 2, (max(0, size - side) + 1) / 2, min(side, size))
    }
}
