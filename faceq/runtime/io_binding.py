"""Run ONNX Runtime sessions directly on torch tensors."""

import numpy as np
import onnxruntime
import torch


class IoBoundSession:
    """A session whose input and output are tensors on its device. No data is copied to the host.

    Args:
        session: a session with one input and one output, float32.
        device: `cuda`, or `cpu`, which runs the same code on tensors in memory.
        shape: shape of the output for one item, without the batch dimension.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str, shape: tuple[int, ...]):
        self._session = session
        self._device = device
        self._shape = shape
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the session: (N, ...) float32 on the device to (N, *shape) float32 on the device."""
        batch = batch.contiguous()
        out = torch.empty((len(batch), *self._shape), dtype=torch.float32, device=batch.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self._input, batch),
            (binding.bind_output, self._output, out),
        ):
            bind(
                name,
                self._device,
                tensor.device.index or 0,
                np.float32,
                tuple(tensor.shape),
                tensor.data_ptr(),
            )
        # ONNX Runtime uses its own CUDA stream, so pending work of torch must finish first.
        if batch.is_cuda:
            torch.cuda.current_stream().synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return out
