"""Latency of our CUDA backend beside eager PyTorch, channels-last eager and torch.compile, on a machine with a GPU.

python -m tools.bench_cuda                                                   all models, dtypes and batch sizes; writes the page
python -m tools.bench_cuda --models resnet50,bert --batch 1,32 --dtypes float16
"""
