// SPDX-License-Identifier: Apache-2.0
import CryptoKit
import Foundation

/// A file is missing, was changed, or is not what this code reads.
public struct BundleError: Error, CustomStringConvertible {
    public let description: String

    public init(_ description: String) {
        self.description = description
    }
}

public typealias Table = [String: Any]

/// A bundle or an index on the disk, whose files are handed out only if their sha256 is the manifest's.
public struct Artifact {
    public let root: URL
    public let manifest: Table
    /// sha256 of the canonical manifest, and through it of every file.
    public let digest: String
    private let files: [String: Table]

    /// - Parameter kind: "bundle" or "index"
    /// - Throws: `BundleError`, where the manifest was changed, or is of another kind or schema
    public init(_ root: URL, kind: String) throws {
        let content = try Data(contentsOf: root.appendingPathComponent("manifest.json"))
        let table = try JSONSerialization.jsonObject(with: content) as? Table ?? [:]
        guard table["kind"] as? String == kind, table["schema_version"] as? Int == 1 else {
            throw BundleError("\(root.path): found \(table["kind"] ?? "nothing"); expected \(kind) of schema 1")
        }
        digest = manifestDigest(String(decoding: content, as: UTF8.self))
        guard digest == table["digest"] as? String, let files = table["files"] as? [String: Table] else {
            throw BundleError("\(root.path): manifest.json was changed; deploy it again")
        }
        (self.root, manifest, self.files) = (root, table, files)
    }

    /// Files that the manifest names.
    public var names: Set<String> { Set(files.keys) }

    /// The few facts that a reader wants first.
    public var summary: Table { manifest["summary"] as? Table ?? [:] }

    /// Bytes of one file.
    ///
    /// - Throws: `BundleError`, where it is not named, or was changed
    public func data(_ name: String) throws -> Data {
        guard let want = files[name]?["sha256"] as? String else { throw BundleError("\(root.path): has no \(name)") }
        let content = try Data(contentsOf: root.appendingPathComponent(name))
        let found = sha256(content)
        guard found == want else {
            throw BundleError("\(name): sha256 \(found.prefix(12)) differs from \(want.prefix(12)); deploy it again")
        }
        return content
    }

    public func json(_ name: String) throws -> Any {
        try JSONSerialization.jsonObject(with: data(name))
    }

    /// Check every file once.
    public func checkAll() throws {
        for name in files.keys { _ = try data(name) }
    }
}

/// Digest of a manifest: the sha256 of its text without its own digest and without spaces between the values.
///
/// dmedge writes manifests sorted and indented, so the canonical form is this text; numbers need not be written anew.
func manifestDigest(_ text: String) -> String {
    let own = #"(?m)^ {2}"digest": "[0-9a-f]{64}",\n"#
    let rest = text.replacingOccurrences(of: own, with: "", options: .regularExpression)
    var canonical: [UInt8] = []
    var (isQuoted, isEscaped) = (false, false)
    let (space, newline, quote, backslash) = (UInt8(32), UInt8(10), UInt8(34), UInt8(92))
    for letter in rest.utf8 {
        if isQuoted || (letter != space && letter != newline) { canonical.append(letter) }
        if letter == quote && !isEscaped { isQuoted.toggle() }
        isEscaped = isQuoted && letter == backslash && !isEscaped
    }
    return sha256(Data(canonical))
}

func sha256(_ content: Data) -> String {
    SHA256.hash(data: content).map { String(format: "%02x", $0) }.joined()
}
