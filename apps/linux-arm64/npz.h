// SPDX-License-Identifier: Apache-2.0
// Arrays of a .npz file: a zip archive, whose members numpy deflates.
#pragma once

#include "files.h"

// Unpacks a deflated member. Source: RFC 1951.
class Inflater {
 public:
  explicit Inflater(std::string_view packed) : packed_(packed) {}

  std::string all() {
    for (bool is_last = false; !is_last;) {
      is_last = bits(1);
      const int kind = bits(2);
      if (kind == 0) copy_stored();
      else if (kind == 1) unpack(fixed_lengths(), Code(std::vector<int>(30, 5)));
      else if (kind == 2) unpack_with_own_codes();
      else fail();
    }
    return std::move(out_);
  }

 private:
  struct Code {  // canonical Huffman: how many codes of each length, and their symbols in order
    std::array<int, 16> counts{};
    std::vector<int> symbols;
    explicit Code(const std::vector<int>& lengths) {
      for (int length = 1; length < 16; length++)
        for (size_t symbol = 0; symbol < lengths.size(); symbol++)
          if (lengths[symbol] == length) counts[length]++, symbols.push_back(static_cast<int>(symbol));
    }
  };

  [[noreturn]] static void fail() { throw Failure("damaged deflate stream; expected golden arrays; make the bundle again"); }
  static Code fixed_lengths() {
    std::vector<int> lengths(288, 8);
    for (int i = 144; i < 280; i++) lengths[i] = i < 256 ? 9 : 7;
    return Code(lengths);
  }
  int bits(int count) {
    for (; held_ < count; held_ += 8) {
      if (at_ == packed_.size()) fail();
      pool_ |= static_cast<uint32_t>(static_cast<unsigned char>(packed_[at_++])) << held_;
    }
    const int found = static_cast<int>(pool_ & ((1u << count) - 1));
    pool_ >>= count;
    held_ -= count;
    return found;
  }
  int symbol(const Code& code) {
    int value = 0, first = 0, index = 0;
    for (int length = 1; length < 16; length++) {
      value |= bits(1);
      const int count = code.counts[length];
      if (value - count < first) return code.symbols[index + value - first];
      index += count;
      first = (first + count) << 1;
      value <<= 1;
    }
    fail();
  }
  void copy_stored() {
    pool_ = 0, held_ = 0;  // the rest of a byte is skipped
    const size_t size = bits(16);
    bits(16);
    if (at_ + size > packed_.size()) fail();
    out_ += packed_.substr(at_, size);
    at_ += size;
  }
  void unpack_with_own_codes() {
    const int n_lengths = bits(5) + 257, n_distances = bits(5) + 1, n_codes = bits(4) + 4;
    static const int order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    std::vector<int> of_codes(19, 0), lengths;
    for (int i = 0; i < n_codes; i++) of_codes[order[i]] = bits(3);
    const Code code(of_codes);
    while (static_cast<int>(lengths.size()) < n_lengths + n_distances) {
      const int found = symbol(code);
      if (found < 16) lengths.push_back(found);
      else if (found == 16 && lengths.empty()) fail();
      else if (found == 16) lengths.insert(lengths.end(), 3 + bits(2), int(lengths.back()));
      else lengths.insert(lengths.end(), found == 17 ? 3 + bits(3) : 11 + bits(7), 0);
    }
    const auto middle = lengths.begin() + n_lengths;
    unpack(Code(std::vector<int>(lengths.begin(), middle)), Code(std::vector<int>(middle, lengths.end())));
  }
  void unpack(const Code& lengths, const Code& distances) {
    for (int found; (found = symbol(lengths)) != 256;) {
      if (found < 256) {
        out_ += static_cast<char>(found);
        continue;
      }
      const int step = found - 257, more = step < 8 || step == 28 ? 0 : step / 4 - 1;
      int length = step < 8 ? 3 + step : step == 28 ? 258 : 3 + ((4 + step % 4) << more) + bits(more);
      const int far = symbol(distances), extra = far < 4 ? 0 : far / 2 - 1;
      const size_t distance = far < 4 ? 1 + far : 1 + ((2 + far % 2) << extra) + bits(extra);
      if (step > 28 || far > 29 || distance > out_.size()) fail();
      for (; length > 0; length--) out_ += out_[out_.size() - distance];
    }
  }

  std::string_view packed_;
  size_t at_ = 0;
  uint32_t pool_ = 0;
  int held_ = 0;
  std::string out_;
};

// Finds members by the directory at the end. Source: PKWARE, APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
class Npz {
 public:
  explicit Npz(std::string content) : content_(std::move(content)) {
    size_t at = content_.rfind("PK\5\6");
    if (at == std::string::npos) throw Failure("golden.npz: no zip archive; expected one; make the bundle again");
    const int count = number(at + 10, 2);
    at = number(at + 16, 4);
    for (int i = 0; i < count; i++) {
      const size_t size = number(at + 28, 2);
      places_[content_.substr(at + 46, size)] = at;
      at += 46 + size + number(at + 30, 2) + number(at + 32, 2);
    }
  }

  Array array(const std::string& name, const std::string& dtype) const {
    const auto found = places_.find(name + ".npy");
    if (found == places_.end()) throw Failure("golden.npz: lacks " + name + "; expected it; make the bundle again");
    const size_t entry = found->second, local = number(entry + 42, 4);
    const size_t start = local + 30 + number(local + 26, 2) + number(local + 28, 2);
    const std::string_view packed = std::string_view(content_).substr(start, number(entry + 20, 4));
    return Array(number(entry + 10, 2) ? Inflater(packed).all() : std::string(packed), name, dtype);
  }

 private:
  uint32_t number(size_t at, int bytes) const {
    uint32_t found = 0;
    for (int i = bytes - 1; i >= 0; i--) found = found << 8 | static_cast<unsigned char>(content_.at(at + i));
    return found;
  }

  std::string content_;
  std::map<std::string, size_t> places_;  // name -> its entry in the directory
};
