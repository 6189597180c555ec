"""The hardware that can run a model: short names for ONNX Runtime's execution providers.

Each package of ONNX Runtime has some of the providers, and all packages install the same module. So one
environment can have only one of them (docs/how-to/hardware.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from emodistill.errors import ConfigError, one_of

CPU = "cpu"
_SUFFIX = "ExecutionProvider"  # ends each of ONNX Runtime's own names
_REMOTE = "AzureExecutionProvider"  # is in every package, sends requests to a server and runs no model


@dataclass(frozen=True)
class Provider:
    """One kind of hardware.

    Attributes:
        name: the value of `--provider`.
        runtime_name: ONNX Runtime's own name.
        package: the package of ONNX Runtime that has it, in place of `onnxruntime`.
        hardware: that it runs on.
        then: ONNX Runtime's names of the providers of operators that this one lacks; the CPU is the last.
        threads_option: its own option for the number of threads; None: that of the session holds.
        runs_alone: a session may run in one thread at a time.
    """

    name: str
    runtime_name: str
    package: str
    hardware: str
    then: tuple[str, ...] = ()
    threads_option: str | None = None
    runs_alone: bool = False


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(CPU, "CPUExecutionProvider", "onnxruntime", "every CPU"),
        Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "GPUs of NVIDIA"),
        Provider(
            "tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", "GPUs of NVIDIA, with TensorRT",
            then=("CUDAExecutionProvider",),
        ),
        Provider("coreml", "CoreMLExecutionProvider", "onnxruntime", "Macs"),
        Provider(
            "openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino", "CPUs, GPUs and NPUs of Intel",
            threads_option="num_of_threads",
        ),
        Provider(
            "directml", "DmlExecutionProvider", "onnxruntime-directml", "GPUs under Windows", runs_alone=True
        ),
        Provider("rocm", "ROCMExecutionProvider", "onnxruntime-rocm", "GPUs of AMD"),
        Provider("migraphx", "MIGraphXExecutionProvider", "onnxruntime-migraphx", "GPUs of AMD"),
    )
}  # fmt: skip
_BY_RUNTIME_NAME = {provider.runtime_name: provider for provider in PROVIDERS.values()}


def find_provider(name: str) -> Provider:
    """Return the provider of a name: one of `PROVIDERS`, or ONNX Runtime's own name.

    It does not load ONNX Runtime. Raises `ConfigError` for another name.
    """
    if name in PROVIDERS:
        return PROVIDERS[name]
    if name in _BY_RUNTIME_NAME:
        return _BY_RUNTIME_NAME[name]
    if name.endswith(_SUFFIX) and name != _SUFFIX:
        return Provider(name, name, "", "")
    raise ConfigError(one_of("provider", name, PROVIDERS) + f", or ONNX Runtime's own name, …{_SUFFIX}")


def check_provider(name: str) -> str:
    """Return the name of a provider that this install has.

    Raises `ConfigError` for an unknown name, and for a provider of a package that is not installed.
    """
    provider = find_provider(name)
    if provider.name != CPU:
        from onnxruntime import get_available_providers  # Not above: it takes 0.1 s.

        ensure_available(provider, get_available_providers())
    return name


def ensure_available(provider: Provider, available: Iterable[str]) -> None:
    """Raise `ConfigError` where ONNX Runtime, which has the `available` providers, lacks this one."""
    present = [name for name in available if name != _REMOTE]
    if provider.runtime_name in present:
        return
    known = ", ".join(_BY_RUNTIME_NAME[name].name if name in _BY_RUNTIME_NAME else name for name in present)
    if not provider.package:
        raise ConfigError(f"{one_of('provider', provider.name, present)}; this install has {known}")
    if provider.package == PROVIDERS[CPU].package:
        remedy = f"{provider.package} has it for {provider.hardware} only"
    else:
        from importlib import metadata  # Not above: it takes 50 ms.

        # Two packages overwrite each other, so all of them have to go.
        packages = sorted({*metadata.packages_distributions().get("onnxruntime", ()), provider.package})
        remedy = (
            f"install {provider.package} in place of it: pip uninstall -y {' '.join(packages)} && "
            f"pip install {provider.package} (docs/how-to/hardware.md)"
        )
    raise ConfigError(
        f"the provider '{provider.name}' is not in this install of ONNX Runtime, which has {known}; {remedy}"
    )
