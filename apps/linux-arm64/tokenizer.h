// SPDX-License-Identifier: Apache-2.0
// Text to token ids, exactly as SentencePiece makes them, from the same file tokenizer.model.
// Source: sentencepiece, src/normalizer.cc, src/unigram_model.cc (EncodeOptimized), sentencepiece_model.proto.
#pragma once

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "files.h"

// Bytes of the character that begins at `at`, 0 if it is no valid UTF-8.
inline size_t character(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(at), second = byte(at + 1);
  if (first < 0x80) return 1;
  const size_t size = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  for (size_t i = 1; i < size; i++)
    if (byte(at + i) >> 6 != 2) return 0;
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f)) return 0;  // too long; surrogates
  if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;  // too long; beyond Unicode
  return size;
}

// Valid UTF-8: a question mark for every byte that belongs to no character.
inline std::string repaired(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t size = character(text, at);
    out += size ? text.substr(at, size) : "?";
    at += std::max<size_t>(size, 1);
  }
  return out;
}

// A protocol buffer, field by field: a number, or the bytes of anything else.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  int field = 0;
  uint64_t number = 0;
  std::string_view content;

  bool next() {
    if (at_ >= bytes_.size()) return false;
    const uint64_t key = varint(), wire = key & 7;
    field = static_cast<int>(key >> 3);
    number = wire == 0 ? varint() : 0;
    const size_t size = wire == 0 ? 0 : wire == 2 ? varint() : wire == 5 ? 4 : 8;
    if (size > bytes_.size() - at_) throw Failure("tokenizer.model: truncated; unpack the app again");
    content = bytes_.substr(at_, size);
    at_ += size;
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; at_ < bytes_.size(); shift += 7) {
      const unsigned char byte = static_cast<unsigned char>(bytes_[at_++]);
      if (shift < 64) value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) break;
    }
    return value;
  }
  std::string_view bytes_;
  size_t at_ = 0;
};

// A unigram vocabulary with byte fallback.
class Tokenizer {
 public:
  explicit Tokenizer(std::string model) : model_(std::move(model)) {
    float least = std::numeric_limits<float>::infinity();
    for (Fields fields(model_); fields.next();) {
      if (fields.field == 1) add_piece(fields.content, least);
      else if (fields.field == 2) check_type(fields.content);
      else if (fields.field == 3) read_rules(fields.content);
    }
    unknown_score_ = least - 10;  // kUnkPenalty
  }
  Tokenizer(const Tokenizer&) = delete;  // the views would be of the other one

  // All ids of valid UTF-8; none if the text holds nothing. The model takes the unknown token then.
  std::vector<int32_t> encode(std::string_view text) const {
    const std::string normal = normalize(text);
    std::vector<int32_t> ids;
    for (const auto& [id, surface] : best_path(normal)) {
      if (id != unknown_) ids.push_back(id);
      else for (const char byte : surface) ids.push_back(bytes_[static_cast<unsigned char>(byte)]);
    }
    return ids;
  }
  int32_t unknown() const { return unknown_; }

 private:
  enum Type { kNormal = 1, kUnknown = 2, kUserDefined = 4, kByte = 6 };
  struct Step {
    float score = 0;
    size_t start = 0;
    int32_t id = -1;  // -1: nothing ends here yet
  };

  void add_piece(std::string_view message, float& least) {
    std::string_view piece;
    float score = 0;
    uint64_t type = kNormal;
    for (Fields fields(message); fields.next();) {
      if (fields.field == 1) piece = fields.content;
      if (fields.field == 2 && fields.content.size() == 4) memcpy(&score, fields.content.data(), 4);
      if (fields.field == 3) type = fields.number;
    }
    const int32_t id = static_cast<int32_t>(scores_.size());
    scores_.push_back(score);
    if (type == kUserDefined) throw Failure("tokenizer.model: a user-defined piece; expected none");
    if (type == kUnknown) unknown_ = id;
    if (type == kByte) bytes_.at(std::stoul(std::string(piece.substr(3, 2)), nullptr, 16)) = id;  // "<0xE2>"
    if (type != kNormal) return;
    ids_.emplace(piece, id);
    longest_ = std::max(longest_, piece.size());
    least = std::min(least, score);
  }

  void check_type(std::string_view message) const {
    for (Fields fields(message); fields.next();)
      if (fields.field == 3 && fields.number != 1)
        throw Failure("tokenizer.model: model type " + std::to_string(fields.number) + "; expected 1, unigram");
  }

  void read_rules(std::string_view message) {
    for (Fields fields(message); fields.next();) {
      if (fields.field == 2 && fields.content.size() > 4) {
        uint32_t size;
        memcpy(&size, fields.content.data(), 4);
        units_.resize(std::min<size_t>(size, fields.content.size() - 4) / 4);
        memcpy(units_.data(), fields.content.data() + 4, 4 * units_.size());
        results_ = fields.content.substr(4 + 4 * units_.size());
      }
      if (fields.field == 3) adds_prefix_ = fields.number;
      if (fields.field == 4) trims_ = fields.number;
    }
  }

  uint32_t unit(uint32_t place) const { return place < units_.size() ? units_[place] : 0xffffffff; }
  static uint32_t below(uint32_t place, uint32_t unit) { return place ^ unit >> 10 << ((unit & 0x200) >> 6); }

  // The longest rule that applies at `at`, in a double-array trie (darts-clone), or else one character.
  std::string_view rewritten(std::string_view text, size_t at, size_t& size) const {
    size = 0;
    uint32_t result = 0, place = units_.empty() ? 0 : below(0, units_[0]);
    for (size_t end = at; end < text.size() && !units_.empty(); end++) {
      const unsigned char byte = static_cast<unsigned char>(text[end]);
      place ^= byte;
      const uint32_t found = unit(place);
      if ((found & 0x800000ff) != byte) break;  // no such branch
      place = below(place, found);
      if (found >> 8 & 1) {
        size = end + 1 - at;
        result = unit(place) & 0x7fffffff;
      }
    }
    if (size) return results_.substr(result, results_.find('\0', result) - result);
    size = std::max<size_t>(character(text, at), 1);
    return text.substr(at, size);
  }

  // By the rules of the vocabulary, with spaces as U+2581, which pieces hold.
  std::string normalize(std::string_view text) const {
    std::string normal = adds_prefix_ && !text.empty() ? kSpace : "";
    bool is_after_space = trims_;
    for (size_t at = 0, size = 0; at < text.size(); at += size) {
      std::string_view part = rewritten(text, at, size);
      while (is_after_space && !part.empty() && part[0] == ' ') part.remove_prefix(1);
      if (part.empty()) continue;
      for (const char letter : part) letter == ' ' ? normal += kSpace : normal += letter;
      is_after_space = trims_ && part.back() == ' ';
    }
    while (trims_ && normal.size() >= kSpace.size() && normal.compare(normal.size() - 3, 3, kSpace) == 0)
      normal.resize(normal.size() - 3);
    return normal;
  }

  // The most likely split into pieces, by Viterbi with sums in float32.
  std::vector<std::pair<int32_t, std::string_view>> best_path(std::string_view normal) const {
    std::vector<Step> best(normal.size() + 1);
    const auto offer = [&](size_t end, float score, size_t start, int32_t id) {
      if (best[end].id < 0 || score > best[end].score) best[end] = {score, start, id};
    };
    for (size_t start = 0, next; start < normal.size(); start = next) {
      next = start + std::max<size_t>(character(normal, start), 1);
      bool has_single = false;
      for (size_t end = next; end <= std::min(normal.size(), start + longest_); end++) {
        const auto found = ids_.find(normal.substr(start, end - start));
        if (found == ids_.end()) continue;
        offer(end, scores_[found->second] + best[start].score, start, found->second);
        has_single |= end == next;
      }
      if (!has_single) offer(next, unknown_score_ + best[start].score, start, unknown_);
    }
    std::vector<std::pair<int32_t, std::string_view>> path;
    for (size_t end = normal.size(); end > 0; end = best[end].start)
      path.emplace_back(best[end].id, normal.substr(best[end].start, end - best[end].start));
    std::reverse(path.begin(), path.end());
    return path;
  }

  static inline const std::string kSpace = "\xe2\x96\x81";
  std::string model_;  // pieces and results are views of it
  std::unordered_map<std::string_view, int32_t> ids_;
  std::vector<float> scores_;
  std::array<int32_t, 256> bytes_{};
  std::vector<uint32_t> units_;
  std::string_view results_;
  size_t longest_ = 1;
  int32_t unknown_ = 0;
  float unknown_score_ = 0;
  bool adds_prefix_ = true, trims_ = true;
};
