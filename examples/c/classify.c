/* Runs an image model on an image, and prints the classes with the highest scores:
 *
 *   classify net.lowbit image.raw [count]
 *
 * image.raw holds the float32 numbers of one input, in the order of its sizes. */
#include <lowbit.h>
#include <stdio.h>
#include <stdlib.h>

static const lowbit_api* lowbit;

static void fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, lowbit->error_text());
  exit(1);
}

/* The bytes of a file, which has so many. */
static void* bytes_of(const char* path, size_t bytes) {
  FILE* file = fopen(path, "rb");
  void* data = malloc(bytes > 0 ? bytes : 1);
  if (file == NULL || data == NULL || fread(data, 1, bytes, file) != bytes || fgetc(file) != EOF) {
    fprintf(stderr, "%s does not hold %lu bytes\n", path, (unsigned long)bytes);
    exit(1);
  }
  fclose(file);
  return data;
}

/* One sample of a port: free sizes are 1. */
static size_t one_sample(const lowbit_port* port, lowbit_tensor* tensor) {
  size_t elements = 1;
  int axis;
  tensor->dtype = port->dtype;
  tensor->rank = port->rank;
  for (axis = 0; axis < port->rank; ++axis) {
    tensor->shape[axis] = port->shape[axis] < 0 ? 1 : port->shape[axis];
    elements *= (size_t)tensor->shape[axis];
  }
  return elements;
}

static void print_best(const float* scores, size_t count, int wanted) {
  size_t i, best;
  char* told = calloc(count, 1);
  if (told == NULL) return;
  for (; wanted > 0 && (size_t)wanted <= count; --wanted) {
    for (best = 0; told[best]; ++best) continue;
    for (i = best; i < count; ++i)
      if (!told[i] && scores[i] > scores[best]) best = i;
    told[best] = 1;
    printf("class %lu: %g\n", (unsigned long)best, scores[best]);
  }
  free(told);
}

int main(int argc, char** argv) {
  lowbit_model* model;
  lowbit_port port;
  lowbit_tensor input, output;
  if (argc < 3) {
    fprintf(stderr, "usage: classify net.lowbit image.raw [count]\n");
    return 2;
  }
  lowbit = lowbit_get_api(LOWBIT_API_VERSION);
  if (lowbit == NULL) {
    fprintf(stderr, "liblowbit.so is of another version than lowbit.h\n");
    return 1;
  }
  if (lowbit->load_file(argv[1], NULL, &model) != LOWBIT_OK) fail(argv[1]);
  if (lowbit->input_count(model) != 1 || lowbit->output_count(model) != 1) {
    fprintf(stderr, "%s: a model with one input and one output was expected\n", argv[1]);
    return 1;
  }
  if (lowbit->input(model, 0, &port) != LOWBIT_OK) fail(argv[1]);
  printf("%s %s, %s kernels, %d threads\n", port.name, port.sizes, lowbit->isa(model), (int)lowbit->threads(model));
  input.bytes = one_sample(&port, &input) * sizeof(float);
  input.data = bytes_of(argv[2], input.bytes);
  if (lowbit->output_shapes(model, &input, 1, &output, 1) != LOWBIT_OK) fail(argv[2]);
  output.data = malloc(output.bytes);
  if (lowbit->run(model, &input, 1, &output, 1) != LOWBIT_OK) fail(argv[2]);
  print_best(output.data, output.bytes / sizeof(float), argc > 3 ? atoi(argv[3]) : 3);
  free(output.data);
  free(input.data);
  lowbit->unload(model);
  return 0;
}
