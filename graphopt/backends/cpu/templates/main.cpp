// Example: loads the network, runs it, prints how long it takes and what comes out.
//
//     ./example weights.bin [--threads N] [--runs N] [--output PREFIX] [INPUT ...]
//
// INPUT are files with the raw numbers of each input, row by row; an input without a file is zeros. With --output
// the raw numbers of output i go to PREFIXi.bin.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "network.h"

namespace {

using Bytes = std::vector<unsigned char>;

[[noreturn]] void fail(const std::string& text) {
  fprintf(stderr, "error: %s\n", text.c_str());
  exit(1);
}

std::string type_text(const graphopt_tensor& tensor) {
  std::string text = std::string(tensor.name) + ": " + tensor.dtype + "[";
  for (int axis = 0; axis < tensor.rank; ++axis) text += (axis != 0 ? "," : "") + std::to_string(tensor.shape[axis]);
  return text + "]";
}

Bytes read_file(const char* path, size_t bytes) {
  Bytes content(bytes);
  FILE* file = fopen(path, "rb");
  if (file == nullptr) fail(std::string("can't open ") + path);
  const size_t count = fread(content.data(), 1, bytes, file);
  const bool more = fgetc(file) != EOF;
  fclose(file);
  if (count != bytes || more) fail(std::string(path) + " needs to have " + std::to_string(bytes) + " bytes");
  return content;
}

void write_file(const std::string& path, const Bytes& content) {
  FILE* file = fopen(path.c_str(), "wb");
  if (file == nullptr || fwrite(content.data(), 1, content.size(), file) != content.size() || fclose(file) != 0) fail("can't write " + path);
}

// FNV-1a, 64 bits: equal outputs have equal numbers.
unsigned long long checksum(const Bytes& content) {
  unsigned long long hash = 14695981039346656037ull;
  for (unsigned char byte : content) hash = (hash ^ byte) * 1099511628211ull;
  return hash;
}

int number(const char* text) {
  char* end = nullptr;
  const long value = strtol(text, &end, 10);
  if (*text == 0 || *end != 0 || value < 0 || value > 1000000) fail(std::string(text) + " is no number from 0 to 1000000");
  return static_cast<int>(value);
}

}  // namespace

int main(int argc, char** argv) {
  const char* weights = nullptr;
  const char* prefix = nullptr;
  int threads = 0, runs = 10;
  std::vector<const char*> files;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if ((word == "--threads" || word == "--runs" || word == "--output") && i + 1 < argc) {
      const char* value = argv[++i];
      if (word == "--threads") threads = number(value);
      if (word == "--runs") runs = std::max(1, number(value));
      if (word == "--output") prefix = value;
    } else if (weights == nullptr) {
      weights = argv[i];
    } else {
      files.push_back(argv[i]);
    }
  }
  if (weights == nullptr) fail("usage: example weights.bin [--threads N] [--runs N] [--output PREFIX] [INPUT ...]");

  graphopt_network* network = graphopt_create(weights, threads);
  if (network == nullptr) fail(graphopt_error());
  printf("%s, %d threads, %d steps\n", graphopt_isa(), graphopt_threads(network), graphopt_step_count());

  std::vector<Bytes> inputs, outputs;
  std::vector<const void*> input_pointers;
  std::vector<void*> output_pointers;
  for (int i = 0; i < graphopt_input_count(); ++i) {
    graphopt_tensor tensor;
    graphopt_input(i, &tensor);
    inputs.push_back(static_cast<size_t>(i) < files.size() ? read_file(files[i], tensor.bytes) : Bytes(tensor.bytes));
    printf("input  %s\n", type_text(tensor).c_str());
  }
  for (int i = 0; i < graphopt_output_count(); ++i) {
    graphopt_tensor tensor;
    graphopt_output(i, &tensor);
    outputs.emplace_back(tensor.bytes);
  }
  for (const Bytes& input : inputs) input_pointers.push_back(input.data());
  for (Bytes& output : outputs) output_pointers.push_back(output.data());

  std::vector<double> milliseconds;
  for (int run = 0; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    if (graphopt_run(network, input_pointers.data(), output_pointers.data()) != GRAPHOPT_OK) fail(graphopt_error());
    milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  printf("%d runs: median %.3f ms, fastest %.3f ms\n", runs, milliseconds[milliseconds.size() / 2], milliseconds[0]);

  for (int i = 0; i < graphopt_output_count(); ++i) {
    graphopt_tensor tensor;
    graphopt_output(i, &tensor);
    printf("output %s checksum %016llx", type_text(tensor).c_str(), checksum(outputs[i]));
    if (strcmp(tensor.dtype, "f32") == 0) {
      const size_t count = std::min<size_t>(4, tensor.bytes / sizeof(float));
      for (size_t k = 0; k < count; ++k) {
        float value;
        memcpy(&value, outputs[i].data() + k * sizeof value, sizeof value);
        printf(" %g", static_cast<double>(value));
      }
    }
    printf("\n");
    if (prefix != nullptr) write_file(prefix + std::to_string(i) + ".bin", outputs[i]);
  }
  graphopt_destroy(network);
  return 0;
}
