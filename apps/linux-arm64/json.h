// SPDX-License-Identifier: Apache-2.0
// JSON as manifests use it: numbers keep the text that they stand with, so that a digest can be taken of it again.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// What ends the program with exit status 1: what was found, what was expected, what to do.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Json {
  enum Kind { kPlain, kText, kList, kTable };  // plain: numbers, true, false and null
  Kind kind = kPlain;
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> members;  // sorted by the bytes of UTF-8, which is by code points

  bool has(const std::string& key) const { return members.count(key) > 0; }
  const Json& at(const std::string& key) const {
    const auto found = members.find(key);
    if (found == members.end()) throw Failure("no \"" + key + "\" in the JSON; expected it; make the artifact again");
    return found->second;
  }
  double number() const { return std::stod(text); }
};

constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";

// A string in quotes, escaped as little as JSON allows.
inline std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char letter : text) {
    const size_t place = kEscaped.find(letter);
    if (place != std::string_view::npos) {
      out += '\\';
      out += kLetters[place];
    } else if (static_cast<unsigned char>(letter) < 32) {
      char code[8];
      snprintf(code, sizeof code, "\\u%04x", letter);
      out += code;
    } else {
      out += letter;
    }
  }
  return out + '"';
}

inline void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) out += static_cast<char>(code);
  else {
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
    out += static_cast<char>((0xff00 >> (more + 1) & 0xff) | code >> 6 * more);
    for (int i = more - 1; i >= 0; i--) out += static_cast<char>(0x80 | (code >> 6 * i & 63));
  }
}

class JsonReader {
 public:
  explicit JsonReader(std::string_view source) : source_(source) {}

  Json document() {
    Json found = value(0);
    if (next() != 0 || at_ != source_.size()) fail();
    return found;
  }

 private:
  [[noreturn]] void fail() const {
    throw Failure("not JSON at byte " + std::to_string(at_) + ": truncated or overwritten; make the artifact again");
  }
  char next() {  // the first letter that is no space; 0 at the end
    while (at_ < source_.size() && std::string_view(" \t\r\n").find(source_[at_]) != std::string_view::npos) at_++;
    return at_ < source_.size() ? source_[at_] : 0;
  }
  void expect(char letter) {
    if (next() != letter) fail();
    at_++;
  }
  Json value(int depth) {
    const char first = next();
    Json found;
    if (depth > 64) fail();
    if (first == '"') {
      found.kind = Json::kText;
      found.text = string();
    } else if (first == '[' || first == '{') {
      const char last = first == '[' ? ']' : '}';
      found.kind = first == '[' ? Json::kList : Json::kTable;
      at_++;
      while (next() != last) {
        if (!found.items.empty() || !found.members.empty()) expect(',');
        if (first == '[') found.items.push_back(value(depth + 1));
        else {
          if (next() != '"') fail();
          const std::string key = string();
          expect(':');
          found.members[key] = value(depth + 1);
        }
      }
      at_++;
    } else {
      const size_t end = source_.find_first_not_of("+-.0123456789aeflnrstuE", at_);
      found.text = source_.substr(at_, end - at_);
      if (found.text.empty()) fail();
      at_ += found.text.size();
    }
    return found;
  }
  uint32_t hex4() {
    const std::string digits(source_.substr(at_, 4));
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) fail();
    at_ += 4;
    return static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
  }
  std::string string() {
    std::string out;
    for (at_++; at_ < source_.size() && source_[at_] != '"';) {
      if (source_[at_] != '\\') {
        out += source_[at_++];
        continue;
      }
      if (++at_ == source_.size()) fail();
      const char letter = source_[at_++];
      const size_t place = kLetters.find(letter);
      if (letter == 'u') {
        uint32_t code = hex4();
        if (code >> 10 == 0x36 && source_.substr(at_, 2) == "\\u") {  // the first of a pair of surrogates
          at_ += 2;
          code = 0x10000 + ((code & 0x3ff) << 10) + (hex4() & 0x3ff);
        }
        append_utf8(out, code);
      } else if (letter == '/' || place != std::string_view::npos) {
        out += letter == '/' ? letter : kEscaped[place];
      } else {
        fail();
      }
    }
    expect('"');
    return out;
  }

  std::string_view source_;
  size_t at_ = 0;
};

// The same bytes for the same facts: keys sorted, no spaces. `left_out` is a key of the outermost table.
inline std::string canonical(const Json& value, std::string_view left_out = {}) {
  if (value.kind == Json::kPlain) return value.text;
  if (value.kind == Json::kText) return quote(value.text);
  std::string out;
  for (const Json& item : value.items) out += (out.empty() ? "" : ",") + canonical(item);
  for (const auto& [key, member] : value.members)
    if (key != left_out) out += (out.empty() ? "" : ",") + quote(key) + ":" + canonical(member);
  return value.kind == Json::kList ? "[" + out + "]" : "{" + out + "}";
}
