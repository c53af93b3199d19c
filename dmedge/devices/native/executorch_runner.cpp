// SPDX-License-Identifier: Apache-2.0
// Runs ExecuTorch programs with XNNPACK, by the headers and libraries that the Python wheel carries.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runner.h"

#ifndef EXECUTORCH_VERSION
#error "define EXECUTORCH_VERSION, such as \"1.5.1\": the libraries do not tell"
#endif

using executorch::aten::ScalarType;
using executorch::extension::make_tensor_ptr;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

// The wheel exports the thread pool and leaves out its header. No function here is virtual, so this much is enough.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

const std::map<std::string, ScalarType> kTypes = {
    {"float32", ScalarType::Float}, {"int32", ScalarType::Int}, {"int64", ScalarType::Long},
    {"uint8", ScalarType::Byte},    {"int8", ScalarType::Char}, {"bool", ScalarType::Bool},
};

std::map<std::string, std::unique_ptr<Module>> modules;  // by file; several methods may share one
Module* current = nullptr;
int threads = 0;  // of the pool, once it is set
std::vector<TensorPtr> tensors;
std::vector<EValue> results;

int check(Error error, const std::string& doing) {
  return error == Error::Ok || fail("%s: %s", doing.c_str(), executorch::runtime::to_string(error));
}

// Set the size of the pool. Once a program is loaded, this would abort the process.
int set_threads(int count) {
  if (threads == count) return 1;
  if (threads) return fail("threads %d; this process runs %d already", count, threads);
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (!pool || !pool->_unsafe_reset_threadpool(count) || static_cast<int>(pool->get_thread_count()) != count)
    return fail("the pool does not take %d threads", count);
  threads = count;
  return 1;
}

int check_counts(const Job* job) {
  auto meta = current->method_meta(job->method);
  if (!meta.ok()) return check(meta.error(), job->method);
  const int n_inputs = static_cast<int>(meta->num_inputs()), n_outputs = static_cast<int>(meta->num_outputs());
  if (n_inputs != job->n_inputs) return fail("%s: %d inputs; the job names %d", job->method, n_inputs, job->n_inputs);
  for (int i = 0; i < job->n_outputs; i++) {
    const int index = job->outputs[i].index;
    if (index < 0 || index >= n_outputs)
      return fail("%s: %d outputs; the job names number %d", job->method, n_outputs, index);
  }
  return 1;
}

int load(const Job* job, int* is_new) {
  if (!set_threads(job->threads)) return 0;
  auto& module = modules[job->program];
  if (!module) {
    auto opened = std::make_unique<Module>(job->program, Module::LoadMode::Mmap);
    if (!check(opened->load(), job->program)) return 0;
    module = std::move(opened);
  }
  *is_new = !module->is_method_loaded(job->method);
  current = module.get();
  return check(module->load_method(job->method), std::string(job->program) + ", method " + job->method) &&
         check_counts(job);
}

int prepare(const Job* job, const Tensor* inputs) {
  results.clear();
  tensors.clear();
  std::vector<EValue> values;
  for (int i = 0; i < job->n_inputs; i++) {
    const auto type = kTypes.find(inputs[i].dtype);
    if (type == kTypes.end()) return fail("%s is %s", job->inputs[i], inputs[i].dtype);
    std::vector<executorch::aten::SizesType> sizes(inputs[i].dims, inputs[i].dims + inputs[i].rank);
    tensors.push_back(make_tensor_ptr(sizes, inputs[i].data, type->second));
    values.emplace_back(*tensors.back());
  }
  return check(current->set_inputs(job->method, values), job->method);
}

int execute(const Job* job) {
  auto found = current->execute(job->method);
  if (!found.ok()) return check(found.error(), job->method);
  results = std::move(*found);
  return 1;
}

int output(const Job* job, int index, Tensor* found) {
  const char* name = job->outputs[index].name;
  const EValue& value = results.at(job->outputs[index].index);
  if (!value.isTensor() || value.toTensor().dim() > MAX_RANK) return fail("%s is no tensor", name);
  const auto& tensor = value.toTensor();
  found->rank = static_cast<int>(tensor.dim());
  for (int i = 0; i < found->rank; i++) found->dims[i] = tensor.size(i);
  found->dtype[0] = 0;
  for (const auto& [dtype, type] : kTypes)
    if (type == tensor.scalar_type()) snprintf(found->dtype, sizeof found->dtype, "%s", dtype.c_str());
  if (!found->dtype[0]) return fail("%s: an element type that this runner cannot write", name);
  measure(found);
  found->data = const_cast<void*>(tensor.const_data_ptr());
  return 1;
}

const char* version() { return EXECUTORCH_VERSION; }

}  // namespace

int main(int argc, char** argv) {
  const Engine engine = {"executorch", version, load, prepare, execute, output};
  return serve(&engine, argc, argv);
}
