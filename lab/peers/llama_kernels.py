"""Makes llama.cpp compile its attention kernels, for `cargo xtask isa`, which reads what the driver's compiler prints.

    llama_kernels.py FOLDER KERNEL

KERNEL is how the kernels are called in the report.

Nothing is executed: the device isn't there. q is f32, the only type that llama.cpp takes; k and v are f16."""

import ctypes as C
import os
import sys

FOLDER, KERNEL = sys.argv[1:]
HEAD_DIMS = [64, 128, 256]
TYPE_F32, TYPE_F16, PRECISION_F32 = 0, 1, 10
POINTER, LONG, SIZE, FLOAT, INT = C.c_void_p, C.c_int64, C.c_size_t, C.c_float, C.c_int

# As the lines of isa-kernels: queries, keys, heads, heads of keys and values.
PROBLEMS = {"prefill": (1024, 1024, 8, 8), "decode": (1, 4096, 32, 8)}


class InitParams(C.Structure):
    _fields_ = [("mem_size", SIZE), ("mem_buffer", POINTER), ("no_alloc", C.c_bool)]


def function(library, name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


base = C.CDLL(f"{FOLDER}/libggml-base.so", C.RTLD_GLOBAL)
vulkan = C.CDLL(f"{FOLDER}/libggml-vulkan.so", C.RTLD_GLOBAL)
init = function(base, "ggml_init", POINTER, InitParams)
new_tensor = function(base, "ggml_new_tensor_4d", POINTER, POINTER, INT, LONG, LONG, LONG, LONG)
flash_attn = function(
    base, "ggml_flash_attn_ext", POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, FLOAT, FLOAT, FLOAT
)
set_precision = function(base, "ggml_flash_attn_ext_set_prec", None, POINTER, INT)
new_graph = function(base, "ggml_new_graph", POINTER, POINTER)
expand = function(base, "ggml_build_forward_expand", None, POINTER, POINTER)
allocate = function(base, "ggml_backend_alloc_ctx_tensors", POINTER, POINTER, POINTER)
compute = function(base, "ggml_backend_graph_compute", INT, POINTER, POINTER)
supports = function(base, "ggml_backend_supports_op", C.c_bool, POINTER, POINTER)


def say(line):
    print(f"### {line}", file=sys.stderr, flush=True)


def compile_attention(backend, head_dim, queries, keys, heads, kv_heads):
    context = init(InitParams(16 << 20, None, True))
    q = new_tensor(context, TYPE_F32, head_dim, queries, heads, 1)
    k, v = (new_tensor(context, TYPE_F16, head_dim, keys, kv_heads, 1) for _ in range(2))
    o = flash_attn(context, q, k, v, None, head_dim**-0.5, 0.0, 0.0)
    # As its models are computed.
    set_precision(o, PRECISION_F32)
    if not supports(backend, o):
        return say("refused it doesn't support this problem")
    graph = new_graph(context)
    expand(graph, o)
    if not allocate(context, backend):
        raise RuntimeError("no memory for the tensors")
    compute(backend, graph)


backend = function(vulkan, "ggml_backend_vk_init", POINTER, SIZE)(0)
if not backend:
    raise RuntimeError("it finds no Vulkan device")
for name, problem in PROBLEMS.items():
    for head_dim in HEAD_DIMS:
        say(f"plan llama.cpp {KERNEL}, {name}; {head_dim}; f16")
        compile_attention(backend, head_dim, *problem)
say("end")
# Not by way of destructors, which would wait for work that nothing does.
sys.stderr.flush()
os._exit(0)
