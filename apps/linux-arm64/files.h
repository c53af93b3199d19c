// SPDX-License-Identifier: Apache-2.0
// Artifacts of dmedge: a manifest.json, and files that are what it says. Arrays as numpy writes them.
#pragma once

#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "json.h"

inline std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string content, part(1 << 16, 0);
  while (stream.read(part.data(), part.size()) || stream.gcount()) content.append(part, 0, stream.gcount());
  if (!stream.is_open() || stream.bad())
    throw Failure(path + ": " + strerror(errno ? errno : EIO) + "; expected a file; unpack the app again");
  return content;
}

// Lower-case hex. Source: FIPS 180-4, section 6.2.
inline std::string sha256(std::string content) {
  static const uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const uint64_t bits = content.size() * 8ull;
  content += static_cast<char>(0x80);
  content.resize((content.size() + 8 + 63) / 64 * 64 - 8);
  for (int i = 7; i >= 0; i--) content += static_cast<char>(bits >> 8 * i);
  const auto turn = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t block = 0; block < content.size(); block += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
      w[i] = 0;
      for (int b = 0; b < 4; b++) w[i] = w[i] << 8 | static_cast<unsigned char>(content[block + 4 * i + b]);
    }
    for (int i = 16; i < 64; i++)
      w[i] = w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) +
             (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; i++) {
      const uint32_t x = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
      const uint32_t y = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + x, d = c, c = b, b = a, a = x + y;
    }
    const uint32_t round[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) state[i] += round[i];
  }
  char hex[65];
  for (int i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", state[i]);
  return hex;
}

// A directory with a manifest, whose digest is that of its canonical JSON without "digest".
struct Artifact {
  std::string root, digest;
  Json manifest;

  Artifact(const std::string& folder, const std::string& kind) : root(folder) {
    const std::string path = root + "/manifest.json", content = read_file(path);
    try {
      manifest = JsonReader(content).document();
      digest = manifest.at("digest").text;
      const std::string schema = manifest.at("schema_version").text, found = manifest.at("kind").text;
      if (schema != "1" || found != kind)
        throw Failure("kind " + found + ", schema " + schema + "; expected kind " + kind + ", schema 1");
    } catch (const std::exception& error) {
      throw Failure(path + ": " + error.what());
    }
    const std::string got = sha256(canonical(manifest, "digest"));
    if (got != digest)
      throw Failure(path + ": was changed: its digest is " + got.substr(0, 12) + "; expected " + digest.substr(0, 12) +
                    "; unpack the app again");
  }

  bool has(const std::string& name) const { return manifest.at("files").has(name); }

  // A file, after comparing it with what the manifest says of it.
  std::string read(const std::string& name) const {
    const std::string path = root + "/" + name;
    if (!has(name)) throw Failure(root + ": no file " + name + " in its manifest; expected one; make the artifact again");
    std::string content = read_file(path);
    const std::string want = manifest.at("files").at(name).at("sha256").text, got = sha256(content);
    if (got != want)
      throw Failure(path + ": sha256 " + got.substr(0, 12) + " differs from the manifest's " + want.substr(0, 12) +
                    "; unpack the app again");
    return content;
  }

  Json read_json(const std::string& name) const { return JsonReader(read(name)).document(); }
};

// A .npy file. Source: NumPy, "The NPY format", versions 1 to 3; in C order and little-endian, as all of dmedge's.
struct Array {
  std::string content;
  size_t start = 0, size = 0;  // byte of the first number; how many numbers
  std::vector<size_t> shape;

  Array() = default;
  Array(std::string npy, const std::string& name, const std::string& dtype) : content(std::move(npy)) {
    const auto byte = [&](size_t i) { return i < content.size() ? static_cast<unsigned char>(content[i]) : 0u; };
    start = byte(6) == 1 ? 10 + byte(8) + 256 * byte(9) : 12 + byte(8) + 256 * byte(9);
    const std::string header = content.substr(0, start);
    const size_t place = header.find("'shape': (");
    if (content.compare(0, 6, "\x93NUMPY") || header.find("'descr': '" + dtype + "'") == std::string::npos ||
        header.find("'fortran_order': False") == std::string::npos || place == std::string::npos)
      throw Failure(name + ": expected an array of " + dtype + "; make the artifact again");
    for (const char* at = header.c_str() + place + 10; isdigit(*at);) {
      char* end;
      shape.push_back(strtoull(at, &end, 10));
      at = end + strspn(end, ", ");
    }
    size = 1;
    for (const size_t length : shape) size *= length;
    if (content.size() != start + size * (dtype.back() - '0'))
      throw Failure(name + ": " + std::to_string(content.size()) + " bytes do not fit its shape; make the artifact again");
  }

  template <class T>
  const T* numbers() const { return reinterpret_cast<const T*>(content.data() + start); }
};
