// SPDX-License-Identifier: Apache-2.0
/*
 * What every native runner shares: it reads jobs, lets an engine run them, and answers with one line of JSON each.
 * docs/devices.md describes the files and the answers. C99 that is C++17 as well; POSIX, and nothing else.
 *
 *   ./runner JOB...    runs the jobs in these folders and ends; exit status 1 if one of them failed
 *   ./runner           reads names of such folders from standard input, a line each, until it is closed
 *
 * Programs stay loaded between jobs. What libraries print goes to standard error.
 */
#ifndef DMEDGE_RUNNER_H
#define DMEDGE_RUNNER_H

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define FORMAT "dmedge-job 1"
#define MAX_RANK 8
#define MAX_TENSORS 16
#define MAX_NAME 512
#define MAX_CONFIG 8
#define ALIGNMENT 64    /* of every tensor in inputs.bin */
#define BEYOND_END 128  /* XNNPACK may read some bytes past its inputs */

typedef struct {
  char dtype[16]; /* numpy's name */
  int rank;
  int64_t dims[MAX_RANK];
  size_t bytes;
  void *data;
} Tensor;

typedef struct {
  char name[MAX_NAME];
  int index; /* among all outputs of the program */
} Output;

typedef struct {
  char program[MAX_NAME]; /* file, below the working directory */
  char method[MAX_NAME];  /* entry point, for runtimes that have several in a file */
  int threads;
  int times, warmup, runs; /* times: 1 for a timed job */
  int n_config, n_inputs, n_outputs, n_cases;
  char config[MAX_CONFIG][2][MAX_NAME];
  char inputs[MAX_TENSORS][MAX_NAME];
  Output outputs[MAX_TENSORS];
  Tensor *tensors; /* n_cases * n_inputs */
  void *data;
} Job;

/* Functions return 1, or 0 after `fail`. */
typedef struct {
  const char *runtime;
  const char *(*version)(void);
  int (*load)(const Job *job, int *is_new); /* makes the program current; is_new: it was not loaded before */
  int (*prepare)(const Job *job, const Tensor *inputs);
  int (*execute)(const Job *job);
  int (*output)(const Job *job, int index, Tensor *found); /* of the last execution */
} Engine;

static char failure[2048];

static int fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure, sizeof failure, format, arguments);
  va_end(arguments);
  return 0;
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A figure of this process in bytes, 0 where the system does not tell; getrusage would count the parent's past. */
static int64_t status_bytes(const char *key) {
  char line[256];
  int64_t kilobytes = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, key, strlen(key))) sscanf(line + strlen(key), " %" SCNd64, &kilobytes);
  if (file) fclose(file);
  return kilobytes * 1024;
}

static size_t dtype_bytes(const char *dtype) {
  if (!strcmp(dtype, "float32") || !strcmp(dtype, "int32")) return 4;
  if (!strcmp(dtype, "int64")) return 8;
  return !strcmp(dtype, "uint8") || !strcmp(dtype, "int8") || !strcmp(dtype, "bool");
}

/* Number of elements; the tensor's bytes follow from it. */
static int64_t measure(Tensor *tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor->rank; i++) count *= tensor->dims[i];
  tensor->bytes = (size_t)count * dtype_bytes(tensor->dtype);
  return count;
}

static int parse_tensor(Job *job, char *rest, int *found) {
  Tensor tensor = {{0}, 0, {0}, 0, NULL};
  char *word = strtok(rest, " ");
  if (!word || !dtype_bytes(word) || *found >= job->n_inputs) return fail("unfit tensor %s", word ? word : "");
  snprintf(tensor.dtype, sizeof tensor.dtype, "%s", word);
  while ((word = strtok(NULL, " "))) {
    if (tensor.rank == MAX_RANK || (tensor.dims[tensor.rank++] = atoll(word)) < 0) return fail("unfit dimension %s", word);
  }
  measure(&tensor);
  job->tensors[(job->n_cases - 1) * job->n_inputs + (*found)++] = tensor;
  return 1;
}

static int parse_case(Job *job, int *found) {
  if (job->n_cases && *found != job->n_inputs) return fail("a case with %d inputs; expected %d", *found, job->n_inputs);
  size_t bytes = (size_t)(job->n_cases + 1) * (job->n_inputs ? job->n_inputs : 1) * sizeof(Tensor);
  Tensor *grown = (Tensor *)realloc(job->tensors, bytes);
  if (!grown) return fail("out of memory");
  job->tensors = grown;
  job->n_cases++;
  *found = 0;
  return 1;
}

static int copy_name(char *target, const char *text) {
  if (strlen(text) >= MAX_NAME) return fail("%.40s... is too long", text);
  strcpy(target, text);
  return 1;
}

static int parse_line(Job *job, char *line, int *found) {
  char *rest = strchr(line, ' ');
  if (rest) *rest++ = 0;
  else rest = line + strlen(line);
  if (!strcmp(line, "program")) return copy_name(job->program, rest);
  if (!strcmp(line, "method")) return copy_name(job->method, rest);
  if (!strcmp(line, "threads")) return (job->threads = atoi(rest)) > 0 || fail("threads %s", rest);
  if (!strcmp(line, "run")) return 1;
  if (!strcmp(line, "time"))
    return (job->times = sscanf(rest, "%d %d", &job->warmup, &job->runs) == 2) || fail("time %s", rest);
  if (!strcmp(line, "config") && job->n_config < MAX_CONFIG) {
    char *value = strchr(rest, ' ');
    if (!value) return fail("config %s without a value", rest);
    *value++ = 0;
    char(*pair)[MAX_NAME] = job->config[job->n_config++];
    return copy_name(pair[0], rest) && copy_name(pair[1], value);
  }
  if (!strcmp(line, "input") && job->n_inputs < MAX_TENSORS && !job->n_cases)
    return copy_name(job->inputs[job->n_inputs++], rest);
  if (!strcmp(line, "output") && job->n_outputs < MAX_TENSORS) {
    Output *output = &job->outputs[job->n_outputs++];
    char *name = strchr(rest, ' ');
    output->index = atoi(rest);
    return name ? copy_name(output->name, name + 1) : fail("output %s without a name", rest);
  }
  if (!strcmp(line, "case")) return parse_case(job, found);
  if (!strcmp(line, "tensor") && job->n_cases) return parse_tensor(job, rest, found);
  return fail("unknown or misplaced word %s", line);
}

static int read_inputs(Job *job, const char *path) {
  size_t total = 0, count = (size_t)job->n_cases * job->n_inputs;
  for (size_t i = 0; i < count; i++) total += (job->tensors[i].bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (posix_memalign(&job->data, ALIGNMENT, total + BEYOND_END)) return fail("out of memory");
  memset((char *)job->data + total, 0, BEYOND_END);
  FILE *file = fopen(path, "rb");
  size_t got = file ? fread(job->data, 1, total, file) : 0;
  if (file) fclose(file);
  if (got != total) return fail("%s: %zu bytes; expected %zu", path, got, total);
  char *place = (char *)job->data;
  for (size_t i = 0; i < count; i++) {
    job->tensors[i].data = place;
    place += (job->tensors[i].bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  return 1;
}

static int read_job(Job *job, const char *folder) {
  char path[2 * MAX_NAME], line[2 * MAX_NAME];
  int number = 0, found = 0, is_fine = 1;
  memset(job, 0, sizeof *job);
  job->threads = 1;
  snprintf(path, sizeof path, "%s/job.txt", folder);
  FILE *file = fopen(path, "r");
  if (!file) return fail("%s: %s", path, strerror(errno));
  while (is_fine && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\r\n")] = 0;
    number++;
    if (number == 1) is_fine = !strcmp(line, FORMAT) || fail("%.40s; expected %s", line, FORMAT);
    else if (line[0]) is_fine = parse_line(job, line, &found);
  }
  fclose(file);
  if (is_fine && job->n_cases && found != job->n_inputs) is_fine = fail("the last case has %d inputs", found);
  if (is_fine && !job->program[0]) is_fine = fail("names no program");
  if (!is_fine) {
    char reason[sizeof failure];
    snprintf(reason, sizeof reason, "%s", failure);
    return fail("%.256s:%d: %.1500s", path, number, reason);
  }
  snprintf(path, sizeof path, "%s/inputs.bin", folder);
  return read_inputs(job, path);
}

static void write_text(FILE *stream, const char *text) {
  fputc('"', stream);
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') fprintf(stream, "\\%c", *text);
    else if ((unsigned char)*text < 32) fputc(' ', stream);
    else fputc(*text, stream);
  }
  fputc('"', stream);
}

/* One execution; its time in ns. */
static int run_once(const Engine *engine, const Job *job, const Tensor *inputs, int64_t *elapsed) {
  if (!engine->prepare(job, inputs)) return 0;
  int64_t start = now_ns();
  if (!engine->execute(job)) return 0;
  *elapsed = now_ns() - start;
  return 1;
}

static int write_outputs(const Engine *engine, const Job *job, FILE *data, FILE *answer) {
  for (int i = 0; i < job->n_outputs; i++) {
    Tensor found;
    if (!engine->output(job, i, &found)) return 0;
    if (fwrite(found.data, 1, found.bytes, data) != found.bytes) return fail("outputs.bin: %s", strerror(errno));
    fprintf(answer, "%s{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", found.dtype);
    for (int k = 0; k < found.rank; k++) fprintf(answer, "%s%" PRId64, k ? "," : "", found.dims[k]);
    fputs("]}", answer);
  }
  return 1;
}

/* Run every case; `outputs` and `samples` gather JSON lists. */
static int run_cases(const Engine *engine, const Job *job, FILE *data, FILE *outputs, FILE *samples) {
  for (int c = 0; c < job->n_cases; c++) {
    const Tensor *inputs = job->tensors + (size_t)c * job->n_inputs;
    int64_t elapsed = 0;
    fprintf(samples, "%s[", c ? "," : "");
    for (int i = 0; i < (job->times ? job->warmup + job->runs : 1); i++) {
      if (!run_once(engine, job, inputs, &elapsed)) return 0;
      if (i >= job->warmup) fprintf(samples, "%s%" PRId64, i > job->warmup ? "," : "", elapsed);
    }
    fputc(']', samples);
    fprintf(outputs, "%s[", c ? "," : "");
    if (!write_outputs(engine, job, data, outputs)) return 0;
    fputc(']', outputs);
  }
  return 1;
}

static int run_job(const Engine *engine, const Job *job, const char *folder, int64_t base_rss, FILE *answer) {
  char path[2 * MAX_NAME], *outputs = NULL, *samples = NULL;
  size_t outputs_bytes, samples_bytes;
  int is_new = 0;
  int64_t start = now_ns();
  if (!engine->load(job, &is_new)) return 0;
  double load_ms = (double)(now_ns() - start) / 1e6;
  snprintf(path, sizeof path, "%s/outputs.bin", folder);
  FILE *data = fopen(path, "wb");
  if (!data) return fail("%s: %s", path, strerror(errno));
  FILE *outputs_list = open_memstream(&outputs, &outputs_bytes), *samples_list = open_memstream(&samples, &samples_bytes);
  int is_fine = run_cases(engine, job, data, outputs_list, samples_list);
  fclose(outputs_list);
  fclose(samples_list);
  if (fclose(data) && is_fine) is_fine = fail("%s: %s", path, strerror(errno));
  if (is_fine) {
    fprintf(answer, "{\"runtime\":\"%s\",\"version\":\"%s\",\"threads\":%d,", engine->runtime, engine->version(), job->threads);
    if (is_new) fprintf(answer, "\"load_ms\":%.6f,", load_ms);
    fprintf(answer, "\"base_rss_bytes\":%" PRId64 ",\"peak_rss_bytes\":%" PRId64, base_rss, status_bytes("VmHWM:"));
    fprintf(answer, ",\"outputs\":[%s],\"samples_ns\":[%s]}\n", outputs, samples);
  }
  free(outputs);
  free(samples);
  return is_fine;
}

/* Answer one job on one line. */
static int answer_job(const Engine *engine, const char *folder, int64_t base_rss, FILE *answers) {
  Job *job = (Job *)malloc(sizeof *job);
  int is_fine = job && read_job(job, folder) && run_job(engine, job, folder, base_rss, answers);
  if (!is_fine) {
    fputs("{\"error\":", answers);
    write_text(answers, job ? failure : "out of memory");
    fputs("}\n", answers);
  }
  fflush(answers);
  if (job) {
    free(job->tensors);
    free(job->data);
  }
  free(job);
  return is_fine;
}

static int serve(const Engine *engine, int argc, char **argv) {
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none); /* a crash is told by the exit status */
  FILE *answers = fdopen(dup(1), "w");
  if (!answers || dup2(2, 1) < 0) return 1; /* libraries print to standard output */
  int64_t base_rss = status_bytes("VmRSS:");
  int is_fine = 1;
  for (int i = 1; i < argc; i++) is_fine &= answer_job(engine, argv[i], base_rss, answers);
  char folder[MAX_NAME];
  while (argc == 1 && fgets(folder, sizeof folder, stdin)) {
    folder[strcspn(folder, "\r\n")] = 0;
    is_fine &= answer_job(engine, folder, base_rss, answers);
  }
  return !is_fine;
}

#endif
