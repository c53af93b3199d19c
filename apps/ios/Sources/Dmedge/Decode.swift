// SPDX-License-Identifier: Apache-2.0
import Accelerate
import CoreGraphics
import DmedgeCore
import Foundation
import ImageIO

extension Picture {
    /// A file as it is stored: upright, its colours as they are, alpha not multiplied in. Takes 4 bytes for each pixel.
    ///
    /// - Throws: `BundleError`, where ImageIO does not decode it
    public init(decoding content: Data) throws {
        guard let source = CGImageSourceCreateWithData(content as CFData, nil),
            let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
        else { throw BundleError("no picture that ImageIO decodes; choose another") }
        let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
        let orientation = properties?[kCGImagePropertyOrientation] as? Int ?? 1
        let isGrey = image.colorSpace?.model == .monochrome && image.alphaInfo == .none
        let rgba = isGrey ? try Picture.grey(image) : try Picture.colours(image)
        self = Picture(width: image.width, height: image.height, rgba: rgba).upright(orientation)
    }

    /// In the colour space of the picture, so that nothing is converted.
    private static func colours(_ image: CGImage) throws -> [UInt8] {
        let own = image.colorSpace?.baseColorSpace ?? image.colorSpace
        let space = own?.model == .rgb ? own! : CGColorSpace(name: CGColorSpace.sRGB)!
        return try pixels(image, space, CGBitmapInfo(rawValue: CGImageAlphaInfo.last.rawValue), channels: 4)
    }

    private static func grey(_ image: CGImage) throws -> [UInt8] {
        try pixels(image, image.colorSpace!, CGBitmapInfo(rawValue: 0), channels: 1).flatMap { [$0, $0, $0, 255] }
    }

    private static func pixels(
        _ image: CGImage, _ space: CGColorSpace, _ info: CGBitmapInfo, channels: Int
    ) throws -> [UInt8] {
        guard
            let format = vImage_CGImageFormat(
                bitsPerComponent: 8, bitsPerPixel: 8 * channels, colorSpace: space, bitmapInfo: info)
        else { throw BundleError("a picture of an unknown format; choose another") }
        let buffer = try vImage_Buffer(cgImage: image, format: format)
        defer { buffer.free() }
        let row = image.width * channels  // rows of a buffer may be longer
        return (0..<image.height).flatMap { y in
            UnsafeRawBufferPointer(start: buffer.data + y * buffer.rowBytes, count: row)
        }
    }
}
