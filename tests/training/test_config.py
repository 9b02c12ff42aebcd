"""The configuration: what is taken, what is refused and with which words."""

import dataclasses
from pathlib import Path

import pytest
from animatediff_flipbook.training import config as configuration
from animatediff_flipbook.training.config.read import tomllib

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"

SMALL = """
stage = "motion_module"
name = "motion"
output = "run"
[base]
checkpoint = "base.safetensors"
[data]
sources = [{ path = "clips" }]
"""


@pytest.fixture
def write(tmp_path):
    def to_file(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return to_file


def test_the_smallest_file_and_its_defaults(write):
    config = configuration.load(write(SMALL))
    assert config.data.frames == 16
    assert config.objective.caption_dropout == 0.1
    assert config.optimizer.name == "AdamW"
    assert config.frames == 16
    assert config.cache_folder == Path("run/cache")


def test_stage_one_takes_single_frames(write):
    assert configuration.load(write(SMALL), ["stage=domain_adapter"]).frames == 1


def test_overrides_reach_every_level(write):
    config = configuration.load(
        write(SMALL), ["train.steps=7", "data.sources.0.path=/other place/x", "data.resolutions=[[512, 320]]"]
    )
    assert config.train.steps == 7
    assert config.data.sources[0].path == "/other place/x"
    assert config.data.resolutions == ((512, 320),)


def test_plain_data_and_back(write):
    config = configuration.load(write(SMALL), ["optimizer.arguments={betas=[0.9, 0.99]}"])
    assert configuration.from_dict(configuration.to_dict(config)) == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=3", r"train\.stepz.*Did you mean 'steps'.*batch_size"),
        ("stage=motion", "choose one of 'domain_adapter', 'motion_module', 'motion_lora'"),
        ("train.steps=many", "train.steps must be of type int"),
        ("train.steps=0", "train.steps = 0: must be at least 1"),
        ("data.resolutions=[[250, 256]]", "multiples of 8"),
        ("data.short_clips=stretch", "'skip', 'loop', 'shorten', 'pad'"),
        ("stage=motion_lora", "motion.file"),
        ("camera.direction=sideways", "zoom_in, zoom_out"),
        ("lora.targets=['ff']", "to_q, to_k, to_v"),
        ("objective.debiased=1", "stage motion_lora"),
        ("objective.timestep_shift=0", "timestep_shift = 0.0: must be positive"),
        (("train.shard=true", "train.precision=fp16"), "fp32 or bf16"),
        (("train.shard=true", "stage=domain_adapter"), "train.shard.*stage motion_module"),
        ("data.background=white", "#rrggbb"),
        ("name=a/b", "plain file name"),
        ("train.precision=fp8", "'fp32', 'bf16', 'fp16'"),
        ("data.sources.3.path=x", "no place in a list of 1"),
        ("nonsense", "no override"),
        ("base={}", "'base.checkpoint' is missing"),
        (("train.steps=1", "train.steps.x.y=1"), r"train\.steps\.x\.y: train\.steps is a value, not a table"),
        ("data.sources=[{path='a', repeats=0}]", r"data\.sources\.0\.repeats = 0: must be at least 1"),
        ("validation.sources=[{path='a', repeats=0}]", r"validation\.sources\.0\.repeats = 0"),
        ("data.resolutions=[]", "at least one"),
        ("data.fps=inf", "data.fps must be finite"),
        ("data.fps=nan", "data.fps must be finite"),
        ("optimizer.lr=inf", "optimizer.lr must be finite"),
        ("data.max_frames_per_file=0", "must be at least 1"),
        (("data.frames=16", "data.stride=20"), "data.max_frames_per_file = 256: .* spans 301 frames"),
        ("samples.every=5", "nothing to render: write samples.prompts"),
        ("data.min_frames=0", "must be at least 1"),
        ("motion.num_heads=0", "must be at least 1"),
        ("motion.pe_length=-1", "must be at least 0"),
        ("lora.alpha=-1", "must be at least 0"),
        ("cache.shard_megabytes=0", "must be at least 1"),
        ("objective.beta_start=0.02", "beta_start, beta_end.*0 < start <= end < 1"),
        ("objective.beta_end=1.5", "0 < start <= end < 1"),
        ("objective.offset_noise=-0.1", "must be at least 0"),
        ("optimizer.final_lr=-1", "must be at least 0"),
        ("optimizer.warmup_steps=-1", "must be at least 0"),
        ("optimizer.max_grad_norm=-1", "must be at least 0"),
        ("optimizer.lora_plus_ratio=0", "must be positive"),
        ("train.threads=-1", "must be at least 0"),
        ("validation.every=-1", "must be at least 0"),
        ("validation.max_clips=0", "must be at least 1"),
        ("validation.bins=1001", "1 to 1000"),
        ("samples.every=-1", "must be at least 0"),
        ("samples.steps=0", "must be at least 1"),
        ("export.every=-1", "must be at least 0"),
        ("output=", "name the folder of the run"),
        ("name=..", "plain file name"),
        ("data.sources.0.path=", "data.sources.0.path = '': name a folder"),
    ],
)
def test_refusals_name_what_is_allowed(write, override, words):
    with pytest.raises(ValueError, match=words):
        configuration.load(write(SMALL), [override] if isinstance(override, str) else override)


def test_flips_are_refused_where_direction_matters(write):
    flip = "data.horizontal_flip=true"
    configuration.load(write(SMALL), [flip])
    with pytest.raises(ValueError, match="never flipped"):
        configuration.load(write(SMALL), [flip, "stage=motion_lora", "motion.file=x"])
    with pytest.raises(ValueError, match="never flipped"):
        configuration.load(write(SMALL), [flip, "camera.direction=pan_left"])


def test_no_file_and_no_toml(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="recipes"):
        configuration.load(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match="not valid TOML"):
        configuration.load(write("stage = "))


def test_every_setting_is_explained():
    """A docstring below each field, as `config` promises."""
    import ast

    files = Path(configuration.__file__).parent.glob("*.py")
    nodes = [node for path in files for node in ast.parse(path.read_text()).body]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    assert {c.name for c in classes} >= {"RunConfig", "DataConfig", "TrainConfig"}
    for cls in classes:
        for field, following in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert explained, f"{cls.name}.{field.target.id}"
    assert all(dataclasses.fields(getattr(configuration, c.name)) for c in classes)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_recipes_are_valid(recipe):
    loaded = configuration.load(recipe)
    assert isinstance(loaded, configuration.RunConfig)
    assert loaded.train.steps > 0


def test_there_is_a_recipe_for_every_stage():
    stages = {configuration.load(path).stage for path in RECIPES.glob("*.toml")}
    assert stages == {"domain_adapter", "motion_module", "motion_lora"}


def test_recipes_are_installed_and_say_what_loss_to_expect():
    project = tomllib.loads((RECIPES.parents[1] / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]["animatediff_flipbook.training"]
    assert {path for pattern in data for path in RECIPES.parent.glob(pattern)} >= set(RECIPES.glob("*.toml"))
    assert all("\n# Loss " in path.read_text() for path in RECIPES.glob("*.toml"))


def test_a_mark_in_front_of_the_text_and_other_encodings(write, tmp_path):
    (tmp_path / "notepad.toml").write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert configuration.load(tmp_path / "notepad.toml") == configuration.load(write(SMALL))
    (tmp_path / "latin.toml").write_bytes(SMALL.encode() + "# \xe9".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.toml is not UTF-8 text"):
        configuration.load(tmp_path / "latin.toml")


TEXTS = (
    "2024", "2024-05-01", "12:30:00", "2024-05-01T12:00:00Z", "true", "12 # twelve", "1e5", "[a]", "{}",
    "inf", "0x10", r"D:\train\new", r"D:\data", "a=b", "it's", "'a' and 'b'", "#1", "nan", "", "a\\",
)  # fmt: skip
FIELDS = ("name", "output", "base.checkpoint", "data.sources.0.path", "data.caption_prefix", "optimizer.name")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", TEXTS)
def test_text_fields_take_the_text(field, text):
    """Whatever TOML would make of it, and with quotes of either kind around it as well."""
    for quote in ("", "'", '"'):
        if quote and quote in text:
            continue
        tree = {"data": {"sources": [{}]}}
        configuration.override(tree, f"{field}={quote}{text}{quote}")
        node = tree
        for part in field.split("."):
            node = node[int(part)] if part.isdigit() else node[part]
        assert node == text, quote


@pytest.mark.parametrize(
    ("text", "value"), [(".5", 0.5), ("1.", 1.0), ("5e-4", 5e-4), ("1_0", 10.0), ("+2", 2.0), ("1.e-1", 0.1)]
)
def test_numbers_take_numbers(write, text, value):
    for key in ("optimizer.lr", "data.fps", "optimizer.arguments.eps"):
        config = configuration.load(write(SMALL), [f"{key}={text}"])
        section, name, *rest = key.split(".")
        found = getattr(getattr(config, section), name)
        assert (found[rest[0]] if rest else found) == value
    whole = configuration.load(write(SMALL), ["train.steps=1000.0", "data.resolutions=[[64.0, 8e1]]"])
    assert (whole.train.steps, whole.data.resolutions) == (1000, ((64, 80),))
    for wrong in ("1000.5", "1e400", "ten", "true", "'7'"):
        with pytest.raises(ValueError, match="train.steps"):
            configuration.load(write(SMALL), [f"train.steps={wrong}"])
    assert configuration.load(write(SMALL), ["train.shard=True"]).train.shard is True


@pytest.mark.parametrize("field", ["output", "base.checkpoint", "export.folder", "samples.prompt_file"])
def test_back_slashes_that_became_tabs_are_noticed(write, field):
    section, _, name = field.rpartition(".")
    tree = tomllib.loads(SMALL)
    (tree.setdefault(section, {}) if section else tree)[name] = "D:\train\new"
    with pytest.raises(ValueError, match=rf"{field} = .*back-slash begins an escape.*single quotes"):
        configuration.from_dict(tree)
    with pytest.raises(ValueError, match="not valid TOML: .*single quotes"):
        configuration.load(write(SMALL.replace('"run"', r'"D:\data"')))


def test_one_frame_does_not_move(write):
    for stage in ("motion_module", "motion_lora"):
        with pytest.raises(ValueError, match="data.frames = 1: .* at least 2"):
            configuration.load(write(SMALL), [f"stage={stage}", "motion.file=x", "data.frames=1"])
    configuration.load(write(SMALL), ["stage=domain_adapter", "data.frames=1"])
