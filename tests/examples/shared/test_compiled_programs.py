import jax
import pytest

from examples.shared import compiled_programs


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The setting of JAX, which is restored."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_cache_of_the_user(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", None)
    compiled_programs.keep()
    assert cache().startswith(str(tmp_path / "optimiz/programs"))
    first = cache()
    jax.config.update("jax_compilation_cache_dir", None)
    compiled_programs.keep()
    assert cache() == first


def test_another_place_is_left_as_it_is(cache):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    compiled_programs.keep()
    assert cache() == "/elsewhere"
