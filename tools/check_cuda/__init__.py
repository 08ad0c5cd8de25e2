"""Are the kernels of the CUDA backend right, and do they compile? `python -m tools.check_cuda --help`; needs no GPU.

Rooms, from the bottom: `case` (a kernel, its tensors and what is wanted), `cases/` (the matrix, a file for each group of families),
`typical` (kernels at the sizes of real networks), `interpret` (cases in Triton's interpreter), `resources` and `compiling` (kernels to
cubin in a process of its own), `networks` (whole random networks), `page` (the table of the docs), `__main__` (the command).
"""
