"""llama.cpp's ggml_flash_attn_ext through ctypes, from the prebuilt libraries of the npm package.

    llama_peer.py FOLDER vulkan|cpu

q, k, v are f32; the mask is f16, which is the only type that it takes. GGML_VK_DISABLE_F16=1 makes the Vulkan kernels
compute in f32."""

import ctypes as C
import glob
import json
import os
import sys

import numpy as np

import common

FOLDER, BACKEND = sys.argv[1:]
TYPE_F32, TYPE_F16, PRECISION_F32 = 0, 1, 10
POINTER, LONG, SIZE, FLOAT, INT = C.c_void_p, C.c_int64, C.c_size_t, C.c_float, C.c_int


class InitParams(C.Structure):
    _fields_ = [("mem_size", SIZE), ("mem_buffer", POINTER), ("no_alloc", C.c_bool)]


def function(library, name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


base = C.CDLL(f"{FOLDER}/libggml-base.so", C.RTLD_GLOBAL)
init = function(base, "ggml_init", POINTER, InitParams)
free = function(base, "ggml_free", None, POINTER)
new_tensor = function(base, "ggml_new_tensor_4d", POINTER, POINTER, INT, LONG, LONG, LONG, LONG)
flash_attn = function(
    base, "ggml_flash_attn_ext", POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, FLOAT, FLOAT, FLOAT
)
set_precision = function(base, "ggml_flash_attn_ext_set_prec", None, POINTER, INT)
new_graph = function(base, "ggml_new_graph", POINTER, POINTER)
expand = function(base, "ggml_build_forward_expand", None, POINTER, POINTER)
allocate = function(base, "ggml_backend_alloc_ctx_tensors", POINTER, POINTER, POINTER)
release = function(base, "ggml_backend_buffer_free", None, POINTER)
tensor_set = function(base, "ggml_backend_tensor_set", None, POINTER, POINTER, SIZE, SIZE)
tensor_get = function(base, "ggml_backend_tensor_get", None, POINTER, POINTER, SIZE, SIZE)
compute = function(base, "ggml_backend_graph_compute", INT, POINTER, POINTER)
supports = function(base, "ggml_backend_supports_op", C.c_bool, POINTER, POINTER)
backend_name = function(base, "ggml_backend_name", C.c_char_p, POINTER)


def open_backend():
    """The backend, and what it is."""
    if BACKEND == "vulkan":
        # Without this it passes over devices that are CPUs.
        os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")
        library = C.CDLL(f"{FOLDER}/libggml-vulkan.so", C.RTLD_GLOBAL)
        describe = function(library, "ggml_backend_vk_get_device_description", None, INT, C.c_char_p, SIZE)
        backend = function(library, "ggml_backend_vk_init", POINTER, SIZE)(0)
        if not backend:
            raise RuntimeError("it finds no Vulkan device")
        text = C.create_string_buffer(256)
        describe(0, text, 256)
        return backend, text.value.decode()
    libraries = [C.CDLL(path) for path in sorted(glob.glob(f"{FOLDER}/libggml-cpu-*.so"))]
    score = lambda library: function(library, "ggml_backend_score", INT)()
    best = max(libraries, key=score)
    backend = function(best, "ggml_backend_cpu_init", POINTER)()
    function(best, "ggml_backend_cpu_set_n_threads", None, POINTER, INT)(backend, os.cpu_count())
    return backend, os.path.basename(best._name)


class Llama:
    PASSES = "forward"

    def __init__(self):
        self.backend, self.device = open_backend()
        self.context = None

    def about(self):
        with open(f"{FOLDER}/_nlcBuildMetadata.json") as file:
            version = json.load(file)["buildOptions"]["llamaCpp"]["release"]
        return {"about": f"llama.cpp {version}", "device": self.device}

    def prepare(self, case):
        if self.context:
            release(self.buffer)
            free(self.context)
            self.context = None
        keep = case.keep()
        mask = None if keep is None else np.where(keep, 0, -np.inf).astype(np.float16)
        context = init(InitParams(16 << 20, None, True))
        tensor = lambda kind, x: new_tensor(context, kind, *reversed(x.shape))
        q, k, v = (tensor(TYPE_F32, x) for x in (case.q, case.k, case.v))
        m = None if mask is None else tensor(TYPE_F16, mask)
        self.o = flash_attn(context, q, k, v, m, case.dim**-0.5, 0.0, 0.0)
        set_precision(self.o, PRECISION_F32)
        if not supports(self.backend, self.o):
            free(context)
            raise RuntimeError("it doesn't support this problem")
        self.graph = new_graph(context)
        expand(self.graph, self.o)
        self.buffer = allocate(context, self.backend)
        self.context = context
        for place, x in ((q, case.q), (k, case.k), (v, case.v), (m, mask)):
            if place:
                x = np.ascontiguousarray(x)
                tensor_set(place, x.ctypes.data, 0, x.nbytes)
        self.shape = (case.batch, case.seq_q, case.heads, case.dim)

    def run(self):
        if compute(self.backend, self.graph) != 0:
            raise RuntimeError("computing failed")

    def output(self):
        o = np.empty(self.shape, np.float32)
        tensor_get(self.o, o.ctypes.data, 0, o.nbytes)
        return o.transpose(0, 2, 1, 3)


common.serve(Llama())
