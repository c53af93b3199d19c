// SPDX-License-Identifier: Apache-2.0

/// A decoded picture: rows of four bytes a pixel, red, green, blue and alpha, which is not multiplied in.
public struct Picture {
    public let width: Int
    public let height: Int
    public let rgba: [UInt8]

    public init(width: Int, height: Int, rgba: [UInt8]) {
        (self.width, self.height, self.rgba) = (width, height, rgba)
    }

    /// Upright, by the orientation 1 to 8 of EXIF.
    public func upright(_ orientation: Int) -> Picture {
        guard (2...8).contains(orientation) else { return self }
        let (wide, high) = orientation >= 5 ? (height, width) : (width, height)
        var found: [UInt8] = []
        found.reserveCapacity(rgba.count)
        for y in 0..<high {
            for x in 0..<wide {
                let (fromX, fromY) = source(orientation, x, y)
                let from = 4 * (fromY * width + fromX)
                found += rgba[from..<from + 4]
            }
        }
        return Picture(width: wide, height: high, rgba: found)
    }

    private func source(_ orientation: Int, _ x: Int, _ y: Int) -> (Int, Int) {
        switch orientation {
        case 2: return (width - 1 - x, y)
        case 3: return (width - 1 - x, height - 1 - y)
        case 4: return (x, height - 1 - y)
        case 5: return (y, x)
        case 6: return (y, height - 1 - x)
        case 7: return (width - 1 - y, height - 1 - x)
        default: return (width - 1 - y, x)
        }
    }

    /// On a plain background.
    func flatten(_ background: [Int]) -> Rgb {
        var found = [UInt8](repeating: 0, count: width * height * 3)
        for pixel in 0..<width * height {
            let alpha = Int(rgba[4 * pixel + 3])
            for channel in 0..<3 {
                let blend = Int(rgba[4 * pixel + channel]) * alpha + background[channel] * (255 - alpha)
                let rounded = 128 * blend + 0x4000
                found[3 * pixel + channel] = UInt8(((rounded >> 8) + rounded) >> 15)  // a division by 255
            }
        }
        return Rgb(width: width, height: height, data: found)
    }
}

/// Three bytes a pixel.
struct Rgb {
    let width: Int
    let height: Int
    var data: [UInt8]

    /// Write the rectangle from (left, top) of `from` at (x, y).
    mutating func paste(_ from: Rgb, left: Int, top: Int, x: Int, y: Int, wide: Int, high: Int) {
        for row in 0..<high {
            let (source, target) = (3 * ((top + row) * from.width + left), 3 * ((y + row) * width + x))
            data.replaceSubrange(target..<target + 3 * wide, with: from.data[source..<source + 3 * wide])
        }
    }

    /// The middle.
    func crop(_ wide: Int, _ high: Int) -> Rgb {
        var found = Rgb(width: wide, height: high, data: [UInt8](repeating: 0, count: wide * high * 3))
        found.paste(self, left: (width - wide) / 2, top: (height - high) / 2, x: 0, y: 0, wide: wide, high: high)
        return found
    }
}
