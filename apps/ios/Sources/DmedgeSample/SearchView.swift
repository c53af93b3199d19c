// SPDX-License-Identifier: Apache-2.0
import Dmedge
import SwiftUI

/// One model for all views: calls go one after the other, away from the main thread.
actor Search {
    private var opened: (model: Model, index: Index)?

    func best(_ text: String) throws -> [Match] {
        let (model, index) = try open()
        return index.best(try model.encodeText(text), count: 20)
    }

    /// Median of a text, preprocessing included, in milliseconds.
    func latency() throws -> Double {
        let (model, _) = try open()
        let samples = try (0..<50).map { _ -> Double in
            let start = ContinuousClock.now
            _ = try model.encodeText("red apple")
            return (ContinuousClock.now - start) / .milliseconds(1)
        }
        return samples.sorted()[25]
    }

    private func open() throws -> (model: Model, index: Index) {
        if let opened { return opened }
        let model = try Model()
        let artifact = try Artifact(Model.asset("index"), kind: "index")
        try artifact.checkAll()
        let found = (model: model, index: try Index(artifact, bundleDigest: model.bundle.digest))
        opened = found
        return found
    }
}

/// Finds the pictures of Assets/index for a text, as it is typed.
public struct SearchView: View {
    @State private var query = ""
    @State private var matches: [Match] = []
    @State private var note = ""
    @State private var search = Search()

    public init() {}

    public var body: some View {
        NavigationStack {
            List {
                if !note.isEmpty { Text(note) }
                ForEach(matches) { match in
                    LabeledContent("\(match.char ?? "") \(match.name)", value: String(format: "%.3f", match.score))
                }
            }
            .searchable(text: $query, prompt: "A word, in any language")
            .task(id: query) { await find() }
            .toolbar { Button("Latency") { Task { await measure() } } }
            .navigationTitle("Picture search")
        }
    }

    private func find() async {
        do {
            let found = try await search.best(query)
            if !Task.isCancelled { (matches, note) = (found, "") }
        } catch {
            note = "\(error)"
        }
    }

    private func measure() async {
        do {
            let middle = try await search.latency()
            let facts = "bundle \(BundleFacts.digest.prefix(12)), ExecuTorch \(BundleFacts.minimumRuntime)"
            note = String(format: "encode_text: p50 %.2f ms of 50, ", middle) + facts
        } catch {
            note = "\(error)"
        }
    }
}
