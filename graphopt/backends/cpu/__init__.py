"""C++ of one network, compiled for this machine: plan, kernels, emission, toolchain, runtime."""
