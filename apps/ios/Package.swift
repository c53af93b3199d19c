// swift-tools-version: 5.10
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

let executorch = ["executorch", "backend_xnnpack", "kernels_optimized", "kernels_quantized"]
    .map { Target.Dependency.product(name: $0, package: "executorch") }

let package = Package(
    name: "Dmedge",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "Dmedge", targets: ["Dmedge"]),
        .library(name: "DmedgeSample", targets: ["DmedgeSample"]),
    ],
    dependencies: [
        .package(url: "https://github.com/pytorch/executorch", branch: "swiftpm-1.5.1")
    ],
    targets: [
        .target(name: "DmedgeCore"),  // tokens, pixels, ranking and digests: knows nothing of UIKit
        .target(
            name: "Dmedge",
            dependencies: [.target(name: "DmedgeCore")] + executorch,
            resources: [.copy("Assets")]  // a folder called Resources would make iOS take the bundle for an old one
        ),
        .target(name: "DmedgeSample", dependencies: ["Dmedge"]),
        .testTarget(
            name: "DmedgeTests", dependencies: ["Dmedge", .product(name: "executorch", package: "executorch")],
            resources: [.copy("Golden")],
            linkerSettings: [.unsafeFlags(["-Xlinker", "-all_load"])]  // the runtime registers its kernels by being linked
        ),
    ]
)
