"""The numbers of the original AnimateDiff: every output of tests/golden, directly and through the nodes.

Measured on a CPU: fp32 at most 2e-6, bf16 at most 1.5e-2 relative L2.
"""

from dataclasses import replace

import pytest
import torch
from animatediff_flipbook.motion_core.files.checkpoint import load_motion_module, open_motion_module
from animatediff_flipbook.motion_core.files.lora import lora_targets, match_layers, read_lora
from animatediff_flipbook.motion_core.module.injection import inserted, resblock_norms
from animatediff_flipbook.motion_core.module.layers import MotionCall, joint_group_norm
from animatediff_flipbook.nodes.motion.apply import ApplyMotionModule
from animatediff_flipbook.nodes.motion.domain_adapter import ApplyDomainAdapter
from animatediff_flipbook.nodes.motion.load import LoadMotionLora, LoadMotionModule
from animatediff_flipbook.tests.support import (
    GOLDEN,
    VERSIONS,
    bare,
    call_model,
    fold,
    golden_io,
    golden_meta,
    golden_patcher,
    golden_unet,
    relative_error,
    unfold,
)

FP32, BF16 = 3e-6, 3e-2
OUTPUTS = ("y_base", "y_motion", "y_motion_lora", "y_domain_adapter")


def motion_file(version):
    return GOLDEN / version / "motion_module.safetensors"


def run_unet(unet, version, motions=()):
    """The bare UNet on the golden input: (B, 4, F, H, W)."""
    io, videos = golden_io(version), golden_meta(version)["batch"]
    dtype = unet.dtype
    x = fold(io["x"]).to(dtype)
    frames = x.shape[0] // videos
    context = io["context"].repeat_interleave(frames, dim=0).to(dtype)
    with torch.inference_mode(), inserted(unet, motions):
        y = unet(x, io["timestep"].float().expand(x.shape[0]), context=context, transformer_options={})
    return unfold(y.float(), videos)


def dense_lora(model, path, strength):
    """``W + strength * up @ down`` written out, without ComfyUI."""
    targets = lora_targets(model)
    match = match_layers(read_lora(path), targets)
    assert not match.unmatched
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, layer in match.layers.items():
            target = targets[name]
            first, number = target.rows or (0, target.shape[0])
            weights[target.key][first : first + number] += strength * layer.up.float() @ layer.down.float()


@pytest.mark.parametrize("version", VERSIONS)
class TestDirect:
    """motion_core alone, on ComfyUI's UNetModel."""

    def call(self, version):
        return MotionCall(frames=golden_meta(version)["frames"])

    def load(self, version, **options):
        return load_motion_module(motion_file(version), dtype=torch.float32, **options)

    def test_base_without_motion(self, version):
        """v1's GroupNorms are joint whether or not a motion module speaks; the modules themselves are not."""
        unet, frames = golden_unet(), golden_meta(version)["frames"]
        if golden_meta(version)["joint_groupnorm"]:
            for container, key in resblock_norms(unet):
                norm = container._modules[key]
                plain = type(norm).forward
                norm.forward = lambda x, norm=norm, plain=plain: joint_group_norm(
                    lambda tall: plain(norm, tall), x, frames
                )
        assert relative_error(run_unet(unet, version), golden_io(version)["y_base"]) <= FP32

    @pytest.mark.parametrize("fused_qkv", [True, False])
    def test_motion(self, version, fused_qkv):
        motion = self.load(version, fused_qkv=fused_qkv)
        y = run_unet(golden_unet(), version, [(motion, self.call(version))])
        assert relative_error(y, golden_io(version)["y_motion"]) <= FP32

    def test_motion_in_bf16(self, version):
        motion = load_motion_module(motion_file(version), dtype=torch.bfloat16)
        y = run_unet(golden_unet(torch.bfloat16), version, [(motion, self.call(version))])
        assert relative_error(y, golden_io(version)["y_motion"]) <= BF16

    @pytest.mark.parametrize("fused_qkv", [True, False])
    def test_motion_lora(self, version, fused_qkv):
        motion = self.load(version, fused_qkv=fused_qkv)
        strength = golden_meta(version)["motion_lora_strength"]
        dense_lora(motion, GOLDEN / version / "motion_lora.safetensors", strength)
        y = run_unet(golden_unet(), version, [(motion, self.call(version))])
        assert relative_error(y, golden_io(version)["y_motion_lora"]) <= FP32

    def test_first_module_alone(self, version):
        io, meta = golden_io(version), golden_meta(version)
        module = self.load(version).get_submodule(meta["first_module"])
        with torch.inference_mode():
            out = module(fold(io["module_in"]), self.call(version))
        assert relative_error(unfold(out, meta["batch"]), io["module_out"]) <= FP32

    def test_the_file_says_which_generation_it_is(self, version):
        file, meta = open_motion_module(motion_file(version)), golden_meta(version)
        assert file.config.generation == version
        assert file.config.pe_length == meta["pe_len"]
        assert file.config.mid_block == meta["mid_block"]
        assert (file.config.unet_groupnorm == "joint") == meta["joint_groupnorm"]
        assert file.config.module_groupnorm == "per_frame"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("switch", ["unet_groupnorm", "module_groupnorm"])
def test_the_wrong_groupnorm_mode_is_noticed(version, switch):
    """Negative control: these tensors can tell the modes apart, so the tests above prove something."""
    file = open_motion_module(motion_file(version))
    other = "joint" if getattr(file.config, switch) == "per_frame" else "per_frame"
    wrong = replace(file, config=replace(file.config, **{switch: other}))
    motion = load_motion_module(wrong, dtype=torch.float32)
    y = run_unet(golden_unet(), version, [(motion, MotionCall(frames=golden_meta(version)["frames"]))])
    error = relative_error(y, golden_io(version)["y_motion"])
    assert error > 1e-3, f"{switch} {other} differs by only {error:.1e}"


@pytest.mark.parametrize("version", VERSIONS)
class TestThroughTheNodes:
    """Files in model folders, our nodes, ComfyUI's patcher, patches and wrappers."""

    @pytest.fixture(autouse=True)
    def folders(self, version, model_folders):
        for name, folder in (
            ("motion_module", "animatediff_models"),
            ("motion_lora", "animatediff_motion_lora"),
            ("domain_adapter", "loras"),
        ):
            model_folders.add(folder, GOLDEN / version / f"{name}.safetensors")

    def patched(self, version, output, patcher):
        meta = golden_meta(version)
        module = LoadMotionModule.execute(motion_module="motion_module.safetensors")[0]
        lora = None
        if output == "y_motion_lora":
            lora = LoadMotionLora.execute(
                motion_lora="motion_lora.safetensors", strength=meta["motion_lora_strength"]
            )[0]
        if output == "y_domain_adapter":
            patcher = ApplyDomainAdapter.execute(
                model=patcher,
                domain_adapter="domain_adapter.safetensors",
                alpha=meta["domain_adapter_alpha"],
            )[0]
        return ApplyMotionModule.execute(
            model=patcher, motion_module=module, motion_lora=lora, beta_schedule="keep"
        )[0]

    def run(self, patcher, version):
        io, videos = golden_io(version), golden_meta(version)["batch"]
        y = call_model(patcher, fold(io["x"]), io["timestep"], io["context"], conds=videos)
        return unfold(y.float(), videos)

    @pytest.mark.parametrize("output", OUTPUTS[1:])
    @pytest.mark.parametrize(
        ("dtype", "bound"), [(torch.float32, FP32), (torch.bfloat16, BF16)], ids=["fp32", "bf16"]
    )
    def test_output(self, version, output, dtype, bound):
        patcher = self.patched(version, output, bare(golden_patcher(dtype)))
        assert relative_error(self.run(patcher, version), golden_io(version)[output]) <= bound

    @pytest.mark.parametrize("output", OUTPUTS[1:])
    def test_fp16_files_computed_in_fp32(self, version, output):
        """As --force-fp32 does: exact, but for an adapter that ComfyUI merges into the base's own fp16."""
        patcher = bare(golden_patcher(torch.float16, torch.float32))
        patcher = self.patched(version, output, patcher)
        error = relative_error(self.run(patcher, version), golden_io(version)[output])
        assert error <= (2e-3 if output == "y_domain_adapter" else FP32)

    @pytest.mark.parametrize(
        ("dtype", "bound"), [(torch.float32, FP32), (torch.bfloat16, BF16)], ids=["fp32", "bf16"]
    )
    def test_base_is_untouched_beside_it(self, version, dtype, bound):
        """The MODEL that went into the node still gives the image model's own numbers, after motion ran."""
        plain = bare(golden_patcher(dtype))
        self.run(self.patched(version, "y_motion", plain), version)
        error = relative_error(self.run(plain, version), golden_io(version)["y_base"])
        if golden_meta(version)["joint_groupnorm"]:
            # The original's v1 has joint norms even without a motion module; a plain MODEL must not.
            assert error > 1e-3
        else:
            assert error <= bound
