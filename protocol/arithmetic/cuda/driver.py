"""Compiling with NVRTC and launching through the driver, both by ctypes; nothing but PyTorch's own wheels is needed.

PyTorch for CUDA brings libnvrtc, and its context, stream and allocator are used as they are. A kernel is compiled to
machine code (a cubin) for the very device: PTX would be compiled again by the driver, which refuses what a newer
NVRTC writes. Compiled kernels are kept on disk beside the CPU engine's plans.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from cupel.protocol.arithmetic.cuda import prelude
from cupel.protocol.arithmetic.cuda.answers import Kernel
from cupel.protocol.arithmetic.cuda.source import Module
from cupel.protocol.errors import BackendUnfit

OPTIONS = (
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--device-int128",
)
"""Nothing contracted, nothing flushed, nothing approximated."""
_COMPILERS = 16
"""Sources compiled at a time; NVRTC does not hold Python's lock."""
_KERNELS_A_SOURCE = 8
_NVRTC_FOLDERS = ("nvidia/cu{major}/lib", "nvidia/cuda_nvrtc/lib", "torch/lib")


class Nvrtc:
    """The run-time compiler. Raises BackendUnfit where there is none."""

    def __init__(self) -> None:
        self._library = _find_nvrtc()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version = (major.value, minor.value)

    def compile(self, source: str, architecture: str) -> bytes:
        """A cubin. Raises BackendUnfit with the compiler's first error."""
        library, program = self._library, ctypes.c_void_p()
        self._check(
            library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"cupel.cu", 0, None, None),
            "nvrtcCreateProgram",
        )
        try:
            options = [text.encode() for text in (f"--gpu-architecture={architecture}", *OPTIONS)]
            status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            if status:
                log = self._read(program, library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog).decode()
                first = next((line for line in log.splitlines() if "error" in line), self._name(status))
                raise BackendUnfit(f"cuda: NVRTC {self.version} cannot compile for {architecture}: {first}")
            return self._read(program, library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, size_of: Callable[..., int], get: Callable[..., int]) -> bytes:
        size = ctypes.c_size_t()
        self._check(size_of(program, ctypes.byref(size)), "size")
        text = ctypes.create_string_buffer(size.value)
        self._check(get(program, text), "text")
        return text.raw

    def _name(self, status: int) -> str:
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return str(self._library.nvrtcGetErrorString(status).decode())

    def _check(self, status: int, what: str) -> None:
        if status:
            raise BackendUnfit(f"cuda: {what} of NVRTC fails: {self._name(status)}")


def _find_nvrtc() -> ctypes.CDLL:
    version = torch.version.cuda
    if version is None:
        raise BackendUnfit("cuda: this PyTorch is built without CUDA; install one that is, or use --backend auto")
    major = version.partition(".")[0]
    packages = Path(torch.__file__).parent.parent
    folders = [packages / folder.format(major=major) for folder in _NVRTC_FOLDERS]
    found = [str(path) for folder in folders for path in sorted(folder.glob("libnvrtc.so*"))]
    # In wheels that carry CUDA themselves, with a hash in its name.
    found += [str(p) for p in sorted((packages / "torch/lib").glob("libnvrtc-*.so*")) if "builtins" not in p.name]
    for name in (*found, f"libnvrtc.so.{major}", "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BackendUnfit(f"cuda: no libnvrtc for CUDA {major} beside PyTorch; pip install nvidia-cuda-nvrtc")


class Driver:
    """The calls of libcuda that launching takes. Raises BackendUnfit where one fails."""

    def __init__(self, ordinal: int) -> None:
        try:
            self._library: Any = ctypes.CDLL("libcuda.so.1")
        except OSError as missing:
            raise BackendUnfit(f"cuda: {missing}; is NVIDIA's driver installed?") from None
        self._check(self._library.cuInit(0), "cuInit")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._check(self._library.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
        # The context that PyTorch's own kernels run in.
        self._check(self._library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        self._context = context
        self._launch = self._library.cuLaunchKernel
        self._launch.argtypes = [
            ctypes.c_void_p,
            *[ctypes.c_uint] * 7,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]

    def enter(self) -> None:
        """Make the context this thread's."""
        self._check(self._library.cuCtxSetCurrent(self._context), "cuCtxSetCurrent")

    def load(self, cubin: bytes, names: Sequence[str]) -> dict[str, ctypes.c_void_p]:
        self.enter()
        module = ctypes.c_void_p()
        self._check(self._library.cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
        functions = {}
        for name in names:
            functions[name] = ctypes.c_void_p()
            status = self._library.cuModuleGetFunction(ctypes.byref(functions[name]), module, name.encode())
            self._check(status, f"cuModuleGetFunction {name}")
        return functions

    def launch(
        self, function: ctypes.c_void_p, blocks: int, threads: int, stream: int, pointers: Sequence[int]
    ) -> None:
        count = len(pointers)
        values = (ctypes.c_uint64 * count)(*pointers)
        first = ctypes.addressof(values)
        places = (ctypes.c_void_p * count)(*(first + 8 * i for i in range(count)))
        # The driver copies the values before it returns.
        status = self._launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, ctypes.addressof(places), None)
        self._check(status, "cuLaunchKernel")

    def _check(self, status: int, what: str) -> None:
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {status}"
            raise BackendUnfit(f"cuda: {what}: {reason}")


class CudaLauncher:
    """A Launcher (answers.py) for one NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's
        self.device = device
        self._nvrtc = Nvrtc()
        index = torch.cuda.current_device() if device.index is None else device.index
        major, minor = torch.cuda.get_device_capability(device)
        self._architecture = f"sm_{major}{minor}"
        self._driver = Driver(index)
        self._lock = threading.Lock()

    def load(self, module: Module) -> Mapping[str, Kernel]:
        sources = module.sources(_KERNELS_A_SOURCE)
        with ThreadPoolExecutor(_COMPILERS) as pool:
            cubins = list(pool.map(self._compiled, sources))
        with self._lock:
            functions: dict[str, ctypes.c_void_p] = {}
            for source, cubin in zip(sources, cubins, strict=True):
                functions |= self._driver.load(cubin, kernels_of(source))
        return {name: self._kernel(function) for name, function in functions.items()}

    def _compiled(self, source: str) -> bytes:
        # llvmlite comes with it, and is what the kernels were written with.
        from cupel.protocol.arithmetic.cpu import cache

        whole = prelude.whole(source)
        decides = repr((self._nvrtc.version, self._architecture, OPTIONS)) + whole
        name = "cuda-" + hashlib.sha256(decides.encode()).hexdigest()
        stored = cache.load(name)
        if stored is None:
            stored = self._nvrtc.compile(whole, self._architecture)
            cache.store(name, stored)
        return stored

    def _kernel(self, function: ctypes.c_void_p) -> Kernel:
        def launch(blocks: int, threads: int, pointers: Sequence[int]) -> None:
            stream = torch.cuda.current_stream(self.device).cuda_stream
            self._driver.launch(function, blocks, threads, stream, pointers)

        return launch

    def enter(self) -> None:
        self._driver.enter()


def kernels_of(source: str) -> list[str]:
    """Names of the kernels a source defines."""
    return re.findall(r"^KERNEL\(\d+\) void (\w+)\(", source, re.MULTILINE)
