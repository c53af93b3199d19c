// SPDX-License-Identifier: Apache-2.0
// The rows of an index: a name and an embedding of every picture, in int8 or float32, whole or shortened.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "files.h"

struct Match {
  size_t place;
  float score;
};

class Index {
 public:
  // Only with the bundle that made it: scores of another encoder mean nothing.
  Index(const Artifact& index, const Artifact& bundle) {
    const std::string maker = index.manifest.at("parents").at("bundle").text;
    if (maker != bundle.digest)
      throw Failure(index.root + ": was made by the bundle " + maker.substr(0, 12) + "; " + bundle.root + " is " +
                    bundle.digest.substr(0, 12) + ", and its scores would mean nothing; run dmedge index with it");
    const Json& summary = index.manifest.at("summary");
    is_int8_ = summary.at("dtype").text == "int8";
    is_leading_ = summary.at("selection").text == "leading";
    embed_dim_ = static_cast<size_t>(summary.at("embed_dim").number());
    items = index.read_json("items.json").items;
    codes_ = Array(index.read("vectors.npy"), "vectors.npy", is_int8_ ? "|i1" : "<f4");
    if (is_int8_) scales_ = Array(index.read("scales.npy"), "scales.npy", "<f4");
    if (index.has("dims.npy")) dims_ = Array(index.read("dims.npy"), "dims.npy", "<i4");
    const size_t width = index.has("dims.npy") ? dims_.size : embed_dim_;
    if (codes_.shape != std::vector<size_t>{items.size(), width} || (is_int8_ && scales_.size != items.size()))
      throw Failure(index.root + ": its arrays have other shapes than its items; make the index again");
  }

  std::vector<Json> items;  // "name" and, of an emoji, "char"

  // The `top` rows that fit an embedding best, best first; equal ones in their order.
  std::vector<Match> best(const std::vector<float>& embedding, size_t top) const {
    const std::vector<float> query = selected(embedding);
    std::vector<Match> rows(items.size());
    for (size_t i = 0; i < rows.size(); i++) {
      const size_t start = i * query.size();
      rows[i] = {i, is_int8_ ? dot(query, codes_.numbers<int8_t>() + start) * scales_.numbers<float>()[i]
                             : dot(query, codes_.numbers<float>() + start)};
    }
    top = std::min(top, rows.size());
    std::partial_sort(rows.begin(), rows.begin() + top, rows.end(), [](const Match& a, const Match& b) {
      return a.score > b.score || (a.score == b.score && a.place < b.place);
    });
    rows.resize(top);
    return rows;
  }

 private:
  // The numbers that the index keeps of an embedding; leading ones get unit length again.
  std::vector<float> selected(const std::vector<float>& embedding) const {
    if (embedding.size() != embed_dim_)
      throw Failure("an embedding of " + std::to_string(embedding.size()) + " numbers; the index expects " +
                    std::to_string(embed_dim_) + "; make the index again");
    if (!dims_.size) return embedding;
    std::vector<float> kept;
    for (size_t i = 0; i < dims_.size; i++) kept.push_back(embedding.at(dims_.numbers<int32_t>()[i]));
    const float length = std::sqrt(std::inner_product(kept.begin(), kept.end(), kept.begin(), 0.0f));
    for (float& number : kept) number /= is_leading_ ? std::max(length, std::numeric_limits<float>::min()) : 1.0f;
    return kept;
  }

  // In eight sums, which compilers turn into vector instructions.
  template <class T>
  static float dot(const std::vector<float>& query, const T* row) {
    float sums[8] = {};
    size_t i = 0;
    for (; i + 8 <= query.size(); i += 8)
      for (size_t k = 0; k < 8; k++) sums[k] += query[i + k] * static_cast<float>(row[i + k]);
    for (; i < query.size(); i++) sums[i % 8] += query[i] * static_cast<float>(row[i]);
    return std::accumulate(sums, sums + 8, 0.0f);
  }

  bool is_int8_, is_leading_;
  size_t embed_dim_;
  Array codes_, scales_, dims_;
};
