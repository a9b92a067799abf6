"""FaceMesh converted to ONNX gives the same values as OpenCV, which reads TFLite directly."""

import cv2
import numpy as np
import pytest

from faceq.faces import geometry, region
from faceq.faces.detect import YuNet
from faceq.faces.landmarks import MESH_ENLARGEMENT
from faceq.faces.region import FaceMesh
from faceq.models.fetch import fetch
from faceq.runtime import tflite_onnx
from faceq.runtime.onnx_runtime import ModelFileError


def test_its_points_are_those_of_opencv(astronaut):
    path = fetch("facemesh")
    mesh, network = FaceMesh(path), cv2.dnn.readNetFromTFLite(str(path))
    (face,) = YuNet(fetch("yunet"), 0.6)(astronaut)
    for turn in (0.0, 0.4, 1.6):
        matrix = geometry.crop_matrix(face.centre, MESH_ENLARGEMENT * face.side, turn, region.MESH_SIZE)
        crop = geometry.warp(astronaut, matrix, region.MESH_SIZE)
        network.setInput(cv2.dnn.blobFromImage(crop, 1 / 255))
        points, _ = mesh(crop)
        assert np.abs(points.ravel() - network.forward().ravel()).max() < 1e-3


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda whole: b"<html>", "is not a TFLite file"),
        (lambda whole: b"", "is not a TFLite file"),
        (lambda whole: bytes(4) + b"TFL3" + bytes(200), "contains an unsupported network|is not a TFLite"),
        (lambda whole: whole[: len(whole) // 2], "contains an unsupported network"),
    ],
)
def test_another_file_is_refused_by_its_name(tmp_path, made, said):
    path = tmp_path / "other.tflite"
    path.write_bytes(made(fetch("facemesh").read_bytes()))
    with pytest.raises(ModelFileError, match=rf"other\.tflite: .*({said})"):
        FaceMesh(path)


def test_an_operator_that_is_not_translated_is_named(tmp_path):
    """The test changes the number of one operator in the file, so that PReLU becomes another operator."""
    import tflite  # noqa: PLC0415 - only used here

    data = bytearray(fetch("facemesh").read_bytes())
    model = tflite.Model.GetRootAsModel(data, 0)
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        if code.BuiltinCode() == tflite.BuiltinOperator.PRELU:
            for field in (4, 10):  # the deprecated field, and the current field of the number
                offset = code._tab.Offset(field)
                if offset:
                    data[code._tab.Pos + offset] = tflite.BuiltinOperator.SOFTMAX
    path = tmp_path / "softmax.tflite"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="contains the unsupported operator SOFTMAX"):
        tflite_onnx.read(path)
