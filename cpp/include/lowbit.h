/* lowbit for C: loads .lowbit files and runs them (docs/embedding.md).
 *
 *   const lowbit_api* lowbit = lowbit_get_api(LOWBIT_API_VERSION);
 *   lowbit_model* model;
 *   if (lowbit->load_file("net.lowbit", NULL, &model) != LOWBIT_OK) puts(lowbit->error_text());
 *
 * The library exports lowbit_get_api alone. A table only grows: what is compiled against this header runs with every
 * library that has this version of it, and later members are there where `size` reaches them.
 */
#ifndef LOWBIT_H
#define LOWBIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LOWBIT_API_VERSION 1
#define LOWBIT_MAX_RANK 8

/* What a function returns; error_text says more. */
typedef enum lowbit_status {
  LOWBIT_OK = 0,
  LOWBIT_ERROR_FORMAT = 1,      /* the file is truncated, foreign, or does not say what it must */
  LOWBIT_ERROR_GRAPH = 2,       /* the graph in it is not valid */
  LOWBIT_ERROR_INPUT = 3,       /* an argument, or an input of a call, does not fit */
  LOWBIT_ERROR_LIMIT = 4,       /* it takes more memory, work or time than it may */
  LOWBIT_ERROR_UNSUPPORTED = 5, /* what this library does not run, such as parts that torch runs */
  LOWBIT_ERROR_ENVIRONMENT = 6, /* LOWBIT_ISA, LOWBIT_THREADS or `isa` asks for what this machine cannot do */
  LOWBIT_ERROR_SYSTEM = 7,      /* the file cannot be read */
  LOWBIT_ERROR_INTERNAL = 8     /* a fault of the library: please report it */
} lowbit_status;

typedef enum lowbit_dtype {
  LOWBIT_F32 = 0,
  LOWBIT_F16 = 1,
  LOWBIT_I64 = 3,
  LOWBIT_I32 = 4,
  LOWBIT_BOOL = 5, /* a byte, 0 or 1 */
  LOWBIT_U8 = 6,
  LOWBIT_S8 = 7
} lowbit_dtype;

/* A dense row-major array that the caller owns. */
typedef struct lowbit_tensor {
  void* data;
  size_t bytes; /* that there are at `data`: of an input exactly, of an output at least, what its shape takes */
  int32_t dtype;
  int32_t rank;
  int64_t shape[LOWBIT_MAX_RANK];
} lowbit_tensor;

/* An input or an output of a model. The texts live as long as the model. */
typedef struct lowbit_port {
  const char* name;  /* as the converted module's call has it: "x", "batch.mask", "output" */
  const char* sizes; /* "[batch, 3, 224, 224]" */
  int32_t dtype;
  int32_t rank;
  int64_t shape[LOWBIT_MAX_RANK]; /* -1: free, or depends on a free size */
} lowbit_port;

/* How a model is loaded. Zeros are the defaults; set `size` to sizeof(lowbit_options). */
typedef struct lowbit_options {
  size_t size;
  int32_t threads;   /* of one call at most; 0: LOWBIT_THREADS, else as many as the process may use */
  const char* isa;   /* "scalar", "avx2", "avxvnni" or "avx512vnni" caps the instruction set; NULL: the best */
  int64_t memory;    /* bytes that the model may hold in all; 0: what the process may use */
  double operations; /* of one call; 0: 1e13; below 0: any number */
  double seconds;    /* that one call may take; 0: any time */
  int64_t batch;     /* what a free size called so may be in one call; 0: 65536; below 0: any size */
} lowbit_options;

/* A loaded model: immutable, and safe to run from many threads at once. */
typedef struct lowbit_model lowbit_model;

typedef struct lowbit_api {
  size_t size; /* of this table, in bytes */
  uint32_t version;
  uint32_t reserved;
  const char* (*library_version)(void); /* "0.1.0" */

  /* What went wrong in this thread's last call that did not return LOWBIT_OK, UTF-8; it lives until the next such. */
  const char* (*error_text)(void);

  /* options may be NULL. On failure *model is NULL. The bytes of load_memory need not outlive the call. */
  lowbit_status (*load_file)(const char* path, const lowbit_options* options, lowbit_model** model);
  lowbit_status (*load_memory)(const void* data, size_t bytes, const lowbit_options* options, lowbit_model** model);
  void (*unload)(lowbit_model* model); /* NULL: nothing. No call may be running. */

  size_t (*input_count)(const lowbit_model* model);
  size_t (*output_count)(const lowbit_model* model);
  lowbit_status (*input)(const lowbit_model* model, size_t index, lowbit_port* port);
  lowbit_status (*output)(const lowbit_model* model, size_t index, lowbit_port* port);
  int32_t (*threads)(const lowbit_model* model); /* of one call at most */
  const char* (*isa)(const lowbit_model* model); /* the instruction set that kernels were chosen for */

  /* Says of each output dtype, rank, shape and the bytes that it takes, for inputs of these shapes; data is not read.
   */
  lowbit_status (*output_shapes)(const lowbit_model* model, const lowbit_tensor* inputs, size_t input_count,
                                 lowbit_tensor* outputs, size_t output_count);

  /* Runs the model: reads the inputs, writes to the outputs' `data`, of which each has `bytes`, and says their dtype,
   * rank and shape. Where an output has too few bytes, nothing is run and all outputs' shapes are said, as
   * output_shapes does. Outputs may not overlap each other or the inputs. Once these shapes were run, it allocates
   * nothing. */
  lowbit_status (*run)(const lowbit_model* model, const lowbit_tensor* inputs, size_t input_count,
                       lowbit_tensor* outputs, size_t output_count);
} lowbit_api;

#if defined(_WIN32) || !defined(__GNUC__)
#define LOWBIT_EXPORT
#else
#define LOWBIT_EXPORT __attribute__((visibility("default")))
#endif

/* The functions of a version; NULL: this library does not have it. */
LOWBIT_EXPORT const lowbit_api* lowbit_get_api(uint32_t version);

#ifdef __cplusplus
}
#endif

#endif
