"""Inception's weights: a file that is given is used, one that runs code is not, and without any there is advice."""

from __future__ import annotations

import contextlib
import os
import pickle

import numpy as np
import pytest
import torch

from stepwise.evaluation import inception
from stepwise.foundation import weight_files
from stepwise.foundation.errors import UserError

fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The network's own state with random weights: nearly 100 MB, so it goes as soon as the tests are over."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save(fidelity.FeatureExtractorInceptionV3("inception", ["2048"]).state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture
def offline(empty_cache):
    """The place where the weights would be cached."""
    return empty_cache / fidelity.URL_INCEPTION_V3.rsplit("/", 1)[1]


def refused(file, *words):
    with pytest.raises(UserError) as caught:
        inception.load(file)
    text = str(caught.value)
    assert all(word in text for word in (*words, "--inception-weights", "--features cas")), text
    assert len(text.splitlines()) <= 3


def test_features_of_a_given_file(weights):
    net, source = inception.load(weights)
    assert source == str(weights)
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    found = inception.features(net, images, torch.device("cpu"))
    assert found.shape == (2, 2048) and found.dtype == np.float32
    assert np.isfinite(found).all() and np.abs(found[0] - found[1]).max() > 0
    assert not any(parameter.requires_grad for parameter in net.parameters()) and not net.training


def test_the_cache_is_used_where_no_file_is_given(weights, monkeypatch):
    asked = []

    def find(url, what, remedies):
        asked.append((url, what))
        return weights, "the cache"

    monkeypatch.setattr(weight_files, "find", find)
    assert inception.load(None)[1] == "the cache"
    assert asked == [(fidelity.URL_INCEPTION_V3, "Inception")]


class Code:
    """Unpickling it makes a folder."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def as_pickle(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


def as_torch(value, path):
    torch.save(value, path)


def as_old_torch(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [as_pickle, as_torch, as_old_torch])
def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path, save):
    trace = tmp_path / "trace"
    save({"weight": Code(trace)}, tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", "bad.pth cannot be used")
    assert not trace.exists()
    with contextlib.suppress(RuntimeError):  # a bare pickle runs before it is found to be no file of torch
        torch.load(tmp_path / "bad.pth", weights_only=False)
    assert trace.exists(), "the file would have run code"


def text_file(path):
    path.write_text("<html>404</html>")


def other_net(path):
    torch.save({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize("write", [text_file, other_net, lambda path: path.touch(), lambda path: path.mkdir()])
def test_a_wrong_file_is_refused(tmp_path, write):
    write(tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", "weights.pth cannot be used")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "no.pth", "no.pth does not exist")


def test_without_network_and_cache_there_is_advice(offline):
    refused(None, "Inception", "neither cached nor reachable")


def test_a_damaged_cache_is_not_used(offline):
    offline.parent.mkdir(parents=True)
    offline.write_bytes(b"half a download")
    refused(None, str(offline), "damaged", "Delete that file")
