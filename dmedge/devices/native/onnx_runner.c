// SPDX-License-Identifier: Apache-2.0
/*
 * Runs ONNX programs by the libonnxruntime that the Python wheel carries, which ships without headers.
 *
 * OrtApi is a table of functions that only ever grows at its end, so a function is known by its place for good.
 * Source: onnxruntime, core/session/onnxruntime_c_api.cc, the table `ort_api_1_to_25` and the rules above it.
 * The library is opened by name: LD_LIBRARY_PATH says where it lies.
 */
#include <dlfcn.h>

#include "runner.h"

#ifndef ONNXRUNTIME_LIBRARY
#error "define ONNXRUNTIME_LIBRARY, such as \"libonnxruntime.so.1.32.0\""
#endif
#define API_VERSION 5 /* the first that has everything below */
#define MAX_PROGRAMS 16
#define LOG_ERRORS 3

typedef void *Status; /* NULL: it went well */
enum {
  GetErrorMessage = 2,
  CreateEnv = 3,
  CreateSession = 7,
  Run = 9,
  CreateSessionOptions = 10,
  SetSessionLogSeverityLevel = 22,
  SetIntraOpNumThreads = 24,
  SetInterOpNumThreads = 25,
  SessionGetInputCount = 30,
  SessionGetOutputCount = 31,
  SessionGetInputName = 36,
  SessionGetOutputName = 37,
  CreateTensorWithDataAsOrtValue = 49,
  GetTensorMutableData = 51,
  GetTensorElementType = 60,
  GetDimensionsCount = 61,
  GetDimensions = 62,
  GetTensorTypeAndShape = 65,
  CreateCpuMemoryInfo = 69,
  GetAllocatorWithDefaultOptions = 78,
  ReleaseStatus = 93,
  ReleaseSession = 95,
  ReleaseValue = 96,
  ReleaseTensorTypeAndShapeInfo = 99,
  ReleaseSessionOptions = 100,
  AddSessionConfigEntry = 130,
};

typedef struct {
  const void *const *(*api)(uint32_t version);
  const char *(*version)(void);
} ApiBase;

typedef struct {
  char file[MAX_NAME];
  void *session;
} Program;

static const ApiBase *base;
static const void *const *api;
static void *environment, *memory, *allocator;
static Program programs[MAX_PROGRAMS];
static int n_programs;
static void *current, *values[MAX_TENSORS], *results[MAX_TENSORS];

/* The function at a place of the table, with the type it has there. */
#define CALL(place, ...) ((Status(*)(__VA_ARGS__))api[place])
#define RELEASE(place, object) ((void (*)(void *))api[place])(object)

static int check(Status status, const char *doing) {
  if (!status) return 1;
  const char *message = ((const char *(*)(Status))api[GetErrorMessage])(status);
  fail("%.600s: %.1200s", doing, message);
  RELEASE(ReleaseStatus, status);
  return 0;
}

static const char *dtype_names[] = {"", "float32", "uint8", "int8", "", "", "int32", "int64", "", "bool"};

static int element_type(const char *dtype) {
  for (int i = 1; i < 10; i++)
    if (!strcmp(dtype_names[i], dtype)) return i;
  return 0;
}

static int start(void) {
  if (environment) return 1;
  void *library = dlopen(ONNXRUNTIME_LIBRARY, RTLD_NOW);
  if (!library) return fail("%s", dlerror());
  const ApiBase *(*get)(void) = (const ApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
  if (!get) return fail("%s", dlerror());
  base = get();
  api = base->api(API_VERSION);
  if (!api) return fail("onnxruntime %s has no C API of version %d", base->version(), API_VERSION);
  return check(CALL(CreateCpuMemoryInfo, int, int, void **)(0, 0, &memory), "memory") &&
         check(CALL(GetAllocatorWithDefaultOptions, void **)(&allocator), "allocator") &&
         check(CALL(CreateEnv, int, const char *, void **)(LOG_ERRORS, "dmedge", &environment), "environment");
}

/* Whether the inputs or the outputs of a session have the names that a job gives them. */
static int check_names(const Job *job, void *session, int is_input) {
  size_t count = 0;
  char *name;
  int place = is_input ? SessionGetInputCount : SessionGetOutputCount;
  if (!check(CALL(place, void *, size_t *)(session, &count), job->program)) return 0;
  if (is_input && (int)count != job->n_inputs)
    return fail("%s: %zu inputs; the job names %d", job->program, count, job->n_inputs);
  place = is_input ? SessionGetInputName : SessionGetOutputName;
  for (int i = 0; i < (is_input ? job->n_inputs : job->n_outputs); i++) {
    int index = is_input ? i : job->outputs[i].index;
    const char *wanted = is_input ? job->inputs[i] : job->outputs[i].name;
    if (index < 0 || index >= (int)count)
      return fail("%s: %zu outputs; the job names number %d", job->program, count, index);
    if (!check(CALL(place, void *, size_t, void *, char **)(session, index, allocator, &name), job->program)) return 0;
    if (strcmp(name, wanted)) return fail("%s: has %s where the job names %s", job->program, name, wanted);
  }
  return 1;
}

static int set_options(const Job *job, void *options) {
  int is_fine = check(CALL(SetSessionLogSeverityLevel, void *, int)(options, LOG_ERRORS), "log level") &&
                check(CALL(SetIntraOpNumThreads, void *, int)(options, job->threads), "threads") &&
                check(CALL(SetInterOpNumThreads, void *, int)(options, 1), "threads");
  for (int i = 0; is_fine && i < job->n_config; i++) {
    const char *key = job->config[i][0], *value = job->config[i][1];
    is_fine = check(CALL(AddSessionConfigEntry, void *, const char *, const char *)(options, key, value), key);
  }
  return is_fine;
}

static int open_session(const Job *job, void **session) {
  void *options;
  if (!check(CALL(CreateSessionOptions, void **)(&options), "options")) return 0;
  int is_fine = set_options(job, options) &&
                check(CALL(CreateSession, void *, const char *, void *, void **)(environment, job->program, options, session),
                      job->program);
  RELEASE(ReleaseSessionOptions, options);
  return is_fine;
}

static int load(const Job *job, int *is_new) {
  if (!start()) return 0;
  current = NULL;
  for (int i = 0; i < n_programs; i++)
    if (!strcmp(programs[i].file, job->program)) current = programs[i].session;
  if (!current) {
    void *session = NULL;
    if (n_programs == MAX_PROGRAMS) return fail("%d programs are loaded; no more are held", n_programs);
    if (!open_session(job, &session)) return 0;
    strcpy(programs[n_programs].file, job->program);
    programs[n_programs++].session = current = session;
    *is_new = 1;
  }
  return check_names(job, current, 1) && check_names(job, current, 0);
}

static void release(void **list) {
  for (int i = 0; i < MAX_TENSORS; i++) {
    if (list[i]) RELEASE(ReleaseValue, list[i]);
    list[i] = NULL;
  }
}

static int prepare(const Job *job, const Tensor *inputs) {
  release(values);
  release(results);
  for (int i = 0; i < job->n_inputs; i++) {
    const Tensor *input = inputs + i;
    if (!check(CALL(CreateTensorWithDataAsOrtValue, void *, void *, size_t, const int64_t *, size_t, int, void **)(
                   memory, input->data, input->bytes, input->dims, input->rank, element_type(input->dtype), &values[i]),
               job->inputs[i]))
      return 0;
  }
  return 1;
}

static int execute(const Job *job) {
  const char *inputs[MAX_TENSORS], *outputs[MAX_TENSORS];
  for (int i = 0; i < job->n_inputs; i++) inputs[i] = job->inputs[i];
  for (int i = 0; i < job->n_outputs; i++) outputs[i] = job->outputs[i].name;
  return check(
      CALL(Run, void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t, void **)(
          current, NULL, inputs, values, job->n_inputs, outputs, job->n_outputs, results),
      job->program);
}

static int output(const Job *job, int index, Tensor *found) {
  void *info;
  int type = 0;
  size_t rank = 0;
  const char *name = job->outputs[index].name;
  if (!check(CALL(GetTensorTypeAndShape, void *, void **)(results[index], &info), name)) return 0;
  int is_fine = check(CALL(GetTensorElementType, void *, int *)(info, &type), name) &&
                check(CALL(GetDimensionsCount, void *, size_t *)(info, &rank), name);
  if (is_fine && (type < 1 || type > 9 || !dtype_names[type][0] || rank > MAX_RANK))
    is_fine = fail("%s: element type %d, rank %zu; this runner cannot write that", name, type, rank);
  is_fine = is_fine && check(CALL(GetDimensions, void *, int64_t *, size_t)(info, found->dims, rank), name);
  RELEASE(ReleaseTensorTypeAndShapeInfo, info);
  if (!is_fine) return 0;
  found->rank = (int)rank;
  strcpy(found->dtype, dtype_names[type]);
  measure(found);
  return check(CALL(GetTensorMutableData, void *, void **)(results[index], &found->data), name);
}

static const char *version(void) { return base ? base->version() : ""; }

int main(int argc, char **argv) {
  const Engine engine = {"onnxruntime", version, load, prepare, execute, output};
  if (!start()) fprintf(stderr, "%s\n", failure); /* here, so that its memory counts as base; a job repeats the error */
  return serve(&engine, argc, argv);
}
