// SPDX-License-Identifier: Apache-2.0
// encode_text of a bundle: token ids to an embedding of unit length, by ExecuTorch.
#pragma once

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/runtime/platform/platform.h>

#include <algorithm>

#include "tokenizer.h"

// The wheel exports the thread pool and leaves out its header. No function here is virtual, so this much is enough.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

// ExecuTorch tells what it learns of the processor too; here errors are enough.
inline void log_error(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                      size_t) {
  if (level == kError || level == kFatal) fprintf(stderr, "executorch: %s\n", message);
}
inline const bool kLogsErrors =
    executorch::runtime::register_pal(executorch::runtime::PalImpl::create(log_error, __FILE__));

class TextEncoder {
 public:
  explicit TextEncoder(const Artifact& bundle)
      : tokenizer(read_vocabulary(bundle)),
        context_length(static_cast<size_t>(bundle.manifest.at("summary").at("context_length").number())),
        module_(program_file(bundle), Module::LoadMode::Mmap) {
    executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);  // enough for one text
    check(module_.load_method(kMethod), "cannot load");
  }

  const Tokenizer tokenizer;
  const size_t context_length;  // tokens of a text, at most

  // What the model takes of the ids of a whole text.
  std::vector<int32_t> cut(std::vector<int32_t> ids) const {
    if (ids.empty()) ids.push_back(tokenizer.unknown());
    ids.resize(std::min(ids.size(), context_length));
    return ids;
  }

  std::vector<float> embed(std::vector<int32_t> ids) {
    std::vector<int32_t> mask(ids.size(), 1);  // 1 on every real token; nothing is padded
    const std::vector<executorch::aten::SizesType> shape = {1, static_cast<int>(ids.size())};
    const auto input = [&](std::vector<int32_t>& row) {
      return executorch::extension::make_tensor_ptr(shape, row.data(), executorch::aten::ScalarType::Int);
    };
    const auto first = input(ids), second = input(mask);
    const auto outputs = module_.execute(kMethod, {*first, *second});
    check(outputs.error(), "cannot run");
    const auto& embedding = outputs->at(0).toTensor();
    const float* numbers = embedding.const_data_ptr<float>();
    return {numbers, numbers + embedding.numel()};
  }

 private:
  using Module = executorch::extension::Module;
  static constexpr const char* kMethod = "encode_text";

  static void check(executorch::runtime::Error error, const std::string& what) {
    if (error != executorch::runtime::Error::Ok)
      throw Failure(what + " encode_text: " + executorch::runtime::to_string(error) + "; run dmedge conform on its bundle");
  }

  static std::string read_vocabulary(const Artifact& bundle) {
    if (bundle.has("tokenizer.model")) return bundle.read("tokenizer.model");
    throw Failure(bundle.root + ": its tokenizer is an imported model's; this program reads tokenizer.model alone");
  }

  // Checked here, then mapped: weights that no text needs are never read into memory.
  static std::string program_file(const Artifact& bundle) {
    for (const Json& program : bundle.manifest.at("programs").items) {
      if (program.at("runtime").text != "executorch" || program.at("name").text != kMethod) continue;
      bundle.read(program.at("file").text);
      return bundle.root + "/" + program.at("file").text;
    }
    throw Failure(bundle.root + ": no encode_text for ExecuTorch; run dmedge export --target linux-arm64");
  }

  Module module_;
};
