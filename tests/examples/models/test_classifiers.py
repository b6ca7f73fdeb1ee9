"""A saved classifier is the model that was saved, here and in transformers."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from scipy.special import softmax

from examples.data.images import digits
from examples.models import image_classifier, resnet, text_classifier
from tests.golden import classifiers

LOGITS = json.loads(classifiers.GOLDEN.read_text(encoding="utf-8"))
HAS_TRANSFORMERS = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="torch and transformers are not installed")


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", classifiers.TEXT_MODELS)
def test_a_classifier_of_texts_has_the_probabilities_of_pytorch(name, tmp_path):
    classifier, params = classifiers.text_model(name)
    classifier.save(tmp_path, params)
    read, same = text_classifier.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert (read.meaning, read.length, read.pairs) == (classifier.meaning, 12, classifier.pairs)
    found = read.predictions(same, classifiers.TEXTS, classifiers.PAIRS if read.pairs else None)
    np.testing.assert_allclose(found, softmax(LOGITS[name], -1), atol=2e-6)
    assert np.ptp(found, axis=0).min() > 0.05  # else the bound would say little


def test_a_classifier_of_images_has_the_logits_of_pytorch(tmp_path):
    classifier, params = classifiers.image_model()
    classifier.save(tmp_path, params)
    read, same, statistics = image_classifier.load(tmp_path)
    assert statistics is None and read.names == ("cat", "dog", "eel")
    found = read.logits(same, classifiers.pictures())
    np.testing.assert_allclose(found, LOGITS["vit"], atol=1e-5)
    assert np.ptp(found, axis=0).min() > 0.1


@needs_transformers
@pytest.mark.long
@pytest.mark.parametrize("name", [*classifiers.TEXT_MODELS, "vit"])
def test_transformers_opens_it_with_the_golden_numbers(name, tmp_path):
    classifier, params = classifiers.image_model() if name == "vit" else classifiers.text_model(name)
    classifier.save(tmp_path, params)
    found = (classifiers.image_logits if name == "vit" else classifiers.text_logits)(tmp_path)
    np.testing.assert_allclose(found, LOGITS[name], atol=1e-5)


@pytest.fixture(scope="module")
def digit_resnet():
    """A ResNet of digits, drawn at random, with statistics of its norms."""
    images = digits().images[:4]
    config = resnet.ResNetConfig((1,), (4,), 10, stem_width=4, cifar=True, channels=1)
    classifier = image_classifier.ImageClassifier(config, 8, [0.3], [0.2], [str(i) for i in range(10)])
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: image_classifier.from_nnx(classifier.module(jax.random.key(0)))[0])
    params = jax.tree.map(lambda x: np.float32(random.normal(0, 0.5, x.shape)), shapes)
    statistics = jax.jit(classifier.apply)(params, classifier.normed(images))[1]
    return classifier, params, statistics, images


def test_a_resnet_is_read_back_with_its_statistics(digit_resnet, tmp_path):
    classifier, params, statistics, images = digit_resnet
    classifier.save(tmp_path, params, statistics)
    read, *same = image_classifier.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, same, [params, statistics])
    assert read.config == classifier.config
    np.testing.assert_array_equal(
        read.logits(*same[:1], images, same[1]), classifier.logits(params, images, statistics)
    )


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must name the classes from 0 on, got "),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label must name the classes from 0 on, got "),
        ({"id2label": ["a", "b"]}, "id2label must name the classes from 0 on, got "),
        ({"id2label": {"0": "a", "1": "b"}}, r"mismatched \(classifier.bias float \[3\], expected float \[2\]"),
        ({"classifier_pooling": "max"}, "is not a classifier of texts that finetune_text has saved"),
        ({"text_pairs": "yes"}, "is not a classifier of texts that finetune_text has saved"),
        ({"text_columns": ["a", "b"]}, "is not a classifier of texts that finetune_text has saved"),
        ({"text_columns": [1]}, "is not a classifier of texts that finetune_text has saved"),
        ({"model_type": "gpt2"}, "model_type must be one of "),
    ],
)
def test_another_configuration_is_refused(change, message, tmp_path):
    classifier, params = classifiers.text_model("bert_mean")
    classifier.save(tmp_path, params)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        text_classifier.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size must be a number of pixels, got 0"),
        ({"image_size": "8"}, "image_size must be a number of pixels, got '8'"),
        ({"depths": 3}, "config.json: "),
        ({"widths": [5]}, r"is not the model that config\.json describes: .* mismatched"),
        ({"classes": 3}, "is not a ResNet that finetune_image has saved"),
    ],
)
def test_another_resnet_is_refused(digit_resnet, change, message, tmp_path):
    classifier, params, statistics, _ = digit_resnet
    classifier.save(tmp_path, params, statistics)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        image_classifier.load(tmp_path)
