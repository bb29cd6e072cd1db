"""Two-stage inference: plan, run, merge, against one window at a time."""

import copy
import itertools
import pickle
import random
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from benchmarks.measuring import PeakMemory
from benchmarks.reference_loop import reference_inference
from tests.support.numbers import disagreement, lively
from tests.support.waits import CountWaits, count_copies
from vfmseg_hf.model import inference as inference_vfmseg
from vfmseg_hf.model.window_batches import (
    choose_window_batch_size,
    free_memory,
    inference_memory,
    run_windows,
    window_memory,
)
from vfmseg_hf.model.windows import label_map


def rounded(model):
    """
    Coarse logits in steps of 1/16: the encoder rounds an image differently alone and in a batch, which would tell
    pixels apart that are exactly at theta.
    """
    model.coarse_head.register_forward_hook(lambda module, inputs, logits: (logits * 16).round() / 16)
    return model


def balance_gate(model, images):
    """Put theta and C_tau between the values that occur, so that some windows are kept and some refined."""
    with torch.no_grad():
        probability = model(images, refine=False).logits.softmax(1).amax(1)
        model.config.confidence_threshold = float(probability.median())
        model.config.certainty_threshold = float(model(images, refine=False).certainty.median())
    return model


def assert_like_the_reference(model, images, refine=None):
    with torch.no_grad():
        output = model(images, refine=refine)
        expected = reference_inference(model, images, refine)
    assert output.refined.tolist() == expected.refined
    assert [list(map(tuple, boxes)) for boxes in output.windows.tolist()] == [expected.windows] * len(images)
    certainty = output.certainty
    if model.config.certainty_scope == "batch":
        torch.testing.assert_close(certainty.mean(0), torch.tensor(expected.certainty[0]))
    else:
        assert torch.equal(certainty, torch.tensor(expected.certainty))
    assert disagreement(output.logits, expected.logits, tolerance=1e-5) <= 1
    return output


@pytest.mark.parametrize("refine", [None, True, False, "all"])
@pytest.mark.parametrize("size", [(112, 160), (96, 71), (17, 33), (40, 360)], ids=str)
def test_inference_equals_one_window_at_a_time(size, refine, tiny_model):
    images = torch.randn(2, 3, *size)
    model = balance_gate(rounded(lively(tiny_model(window_batch_size=3))), images)
    output = assert_like_the_reference(model, images, refine)
    assert output.logits.shape == (2, 19, *size)
    if refine == "all":
        assert output.refined.all()
    elif refine is False:
        assert not output.refined.any()


def random_case(draw, make):
    """
    A model, images and options at random: thresholds often equal what occurs, some windows exceed the image.

    The modules compute in float64, so that what is compared is the loop and not how a matrix product rounds.
    """
    window = draw.choice([32, 48, 64, 40])
    stride = draw.choice([window, window // 2, 20, 27])
    model = lively(
        make(
            num_labels=draw.choice([2, 5]),
            window_size=window,
            window_stride=stride,
            window_batch_size=draw.choice([None, 1, 2, 3, 7]),
            certainty_scope=draw.choice(["image", "image", "batch"]),
            keep_at_threshold=draw.random() < 0.5,
            coarse_mode=draw.choice(["whole", "whole", "sliding"]),
            coarse_size=draw.choice([48, 64, [64, 96]]),
        )
    ).double()
    size = draw.randint(17, 130), draw.randint(17, 130)
    images = torch.randn(draw.randint(1, 3), 3, *size, dtype=torch.float64)
    with torch.no_grad():
        probability = model(images, refine=False).logits.softmax(1).amax(1).flatten()
        model.config.confidence_threshold = float(probability[draw.randrange(len(probability))])
        certainty = model(images, refine=False).certainty
        if model.config.certainty_scope == "batch":
            certainty = certainty.mean(0)
        values = certainty.flatten().sort().values
        tie = float(values[len(values) // 2])
        model.config.certainty_threshold = draw.choice([tie, tie, min(tie + 1e-3, 1.0)])
    return model, images


def test_random_cases_equal_one_window_at_a_time(tiny_model):
    """Sizes, strides, windows larger than the image, batch sizes, scopes, and ties at both thresholds."""
    draw, mixed, ties, cases = random.Random(0), 0, 0, 60
    for _ in range(cases):
        model, images = random_case(draw, tiny_model)
        output = assert_like_the_reference(model, images)
        mixed += int(0 < output.refined.sum() < output.refined.numel())
        ties += int((output.certainty == model.config.certainty_threshold).any())
    assert mixed >= cases / 2, f"only {mixed} of {cases} cases kept some windows and refined some"
    assert ties >= cases / 4, f"only {ties} of {cases} cases had a window exactly at the threshold"


@pytest.mark.parametrize("size", [(112, 160), (40, 360), (30, 50)], ids=str)
def test_images_do_not_depend_on_their_batch(size, tiny_model):
    """Each image as if it were alone, also one of which no window is refined while others' are."""
    images = torch.randn(3, 3, *size)
    model = balance_gate(lively(tiny_model(num_labels=3)), images)
    with torch.no_grad():
        certainty = model(images, refine=False).certainty.amin(1).sort().values
        model.config.certainty_threshold = float(certainty[:2].mean())
        together = model(images)
        assert together.refined.any(1).sum() == 1
        for number, image in enumerate(images):
            alone = model(image[None]).logits[0]
            assert disagreement(together.logits[number], alone, tolerance=1e-5) <= 1


def test_gradients_flow_in_eval_mode(tiny_model):
    model = lively(tiny_model())
    images = torch.randn(1, 3, 80, 96, requires_grad=True)
    model(images, refine="all").logits.square().mean().backward()
    assert images.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------- one wait for the device


@pytest.mark.parametrize("refine", [None, False, "all"])
def test_decisions_of_a_batch_take_one_wait(refine, tiny_model, monkeypatch):
    images = torch.randn(3, 3, 112, 160)
    model = balance_gate(lively(tiny_model()), images)
    reads = []
    read = inference_vfmseg.read_decisions
    monkeypatch.setattr(inference_vfmseg, "read_decisions", lambda plans: reads.append(len(plans)) or read(plans))
    copies = count_copies(monkeypatch)
    with torch.no_grad(), CountWaits() as waits:
        model(images, refine=refine)
    assert reads == [1] and waits.names == [] and copies == ["tolist"]
    model.segment([images[0], images[1], images[2, :, :96], images[2, :, :, :80]], refine=refine)
    assert copies == ["tolist"] * 2, "three sizes, one wait"
    with CountWaits() as waits:
        bool((images > 0).any())
    assert waits.names, "the counter sees a wait"


# ------------------------------------------------------------------------------------------------------------- budget


@pytest.mark.parametrize("refine", [None, "all"])
@pytest.mark.parametrize(
    "limit, most",
    [
        ({"max_windows": 0}, 0),
        ({"max_windows": 1}, 1),
        ({"max_windows": 2}, 2),
        ({"max_window_share": 0.5}, 6),
        ({"max_window_share": 1.0}, 12),
        ({"max_window_share": 1}, 12),
        ({"max_windows": 100}, 12),
    ],
    ids=str,
)
def test_a_limit_refines_the_least_certain_windows(refine, limit, most, tiny_model):
    images = torch.randn(2, 3, 112, 160)
    model = balance_gate(lively(tiny_model()), images)
    with torch.no_grad():
        free = model(images, refine=refine)
        output = model(images, refine=refine, **limit)
        for name, value in limit.items():
            setattr(model.config, name, value)
        assert torch.equal(model(images, refine=refine).refined, output.refined)
        for lifted in ({"max_windows": 12}, {"max_window_share": 1.0}):
            assert torch.equal(model(images, refine=refine, **lifted).refined, free.refined)
    assert free.refined.shape[1] == 12
    for certainty, refined, wanted in zip(output.certainty, output.refined, free.refined, strict=True):
        assert refined.sum() == min(most, wanted.sum())
        assert not (refined & ~wanted).any()
        if 0 < refined.sum() < wanted.sum():
            assert certainty[refined].max() <= certainty[wanted & ~refined].min()


@pytest.mark.parametrize(
    "limit",
    [{"max_windows": value} for value in (-1, 0.5, 1.0, True, "all")]
    + [{"max_window_share": value} for value in (-0.1, 1.5, 2, True, "all", float("nan"))]
    + [{"max_windows": 3, "max_window_share": 0.5}],
    ids=str,
)
def test_a_limit_that_is_none_is_refused(limit, tiny_model, tiny_config):
    images = torch.randn(1, 3, 64, 64)
    for call in (tiny_model(), tiny_model().segment):
        with pytest.raises(ValueError, match=next(iter(limit))):
            call(images, **limit)
    with pytest.raises(StrictDataclassError, match=next(iter(limit))):
        tiny_config(**limit)


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.fixture
def small_parts(monkeypatch):
    """Everything that is worked off in parts is, at these sizes too."""
    monkeypatch.setattr("vfmseg_hf.model.windows.MAX_TEMPORARY_VALUES", 2 * 112 * 160)


@pytest.fixture(params=["as on a CPU", "as on an accelerator"])
def coarse_whole(request, monkeypatch):
    """Whether strips keep the coarse logits or resize them anew."""
    monkeypatch.setattr(inference_vfmseg, "keeps_coarse_whole", lambda device: request.param == "as on a CPU")


@pytest.mark.parametrize("refine", [None, False, "all"])
@pytest.mark.parametrize("coarse_mode", ["whole", "sliding"])
def test_strips_are_exactly_equal(refine, coarse_mode, tiny_model, small_parts, coarse_whole):
    """Bit for bit, if windows go through the encoder in the same batches: one by one."""
    images = torch.randn(2, 3, 112, 160)
    model = balance_gate(lively(tiny_model(window_batch_size=1, coarse_mode=coarse_mode)), images)
    with torch.no_grad():
        expected = model(images, refine=refine)
    for in_strips in (False, True):
        for number, result in enumerate(model.segment(images, refine=refine, in_strips=in_strips)):
            assert torch.equal(result.labels, expected.logits[number].argmax(0).to(torch.uint8))
            assert result.refined == expected.refined[number].tolist()
            assert result.certainty == expected.certainty[number].tolist()
            probability = expected.logits[number].softmax(0).amax(0)
            assert (result.confidence.float() / 255 - probability).abs().max() <= 0.5 / 255 + 1e-6
            assert result.confidence.dtype == torch.uint8 and 0 < result.confidence.float().std()


def test_strips_give_the_same_labels_with_other_batches(tiny_model, small_parts):
    images = torch.randn(2, 3, 200, 130)
    model = balance_gate(lively(tiny_model(window_batch_size=5)), images)
    with torch.no_grad():
        expected = model(images).logits.argmax(1)
    for number, result in enumerate(model.segment(images, in_strips=True)):
        assert torch.equal(result.labels.long(), expected[number])


@pytest.mark.parametrize("window, stride", [(64, 64), (50, 50), (50, 33), (500, 320)])
def test_any_window_and_stride_in_strips(window, stride, tiny_model):
    """Also where they are no multiples of the patch, and where windows exceed the image."""
    images = torch.randn(1, 3, 150, 100)
    model = balance_gate(lively(tiny_model(window_size=window, window_stride=stride, window_batch_size=1)), images)
    with torch.no_grad():
        expected = reference_inference(model, images, "all").logits
        whole = model(images, refine="all").logits
    strips = model.segment(images, refine="all", in_strips=True)[0]
    assert torch.equal(whole[0].argmax(0), strips.labels.long())
    assert disagreement(whole, expected, tolerance=1e-5) <= 1


@pytest.mark.parametrize("num_labels", [2, 19, 300])
@pytest.mark.parametrize("size", [None, (37, 90), (200, 150)])
def test_label_map_is_the_argmax(num_labels, size, small_parts):
    logits = torch.randn(num_labels, 60, 40).mul(3).round() / 2  # with ties
    resized = F.interpolate(logits[None], size=size or (60, 40), mode="bilinear", align_corners=False)[0]
    labels, confidence = label_map(logits, size)
    assert labels.dtype == (torch.uint8 if num_labels <= 256 else torch.int32)
    assert torch.equal(labels.long(), resized.argmax(0))
    assert (confidence.float() / 255 - resized.softmax(0).amax(0)).abs().max() <= 0.5 / 255 + 1e-5


def test_images_of_different_sizes_share_batches(tiny_model, monkeypatch):
    """Windows of all images in common batches, and for each image what it gives alone."""
    images = [torch.randn(3, *size) for size in ((112, 160), (96, 71), (112, 160), (30, 50), (70, 200))]
    model = balance_gate(lively(tiny_model(window_batch_size=8)), images[0][None])
    sizes = [(224, 320), (96, 71), (50, 60), (17, 33), (70, 200)]
    batches = []
    model.refine_head.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))
    results = model.segment(images, sizes, max_windows=3)
    refined = [sum(result.refined) for result in results]
    small = refined.pop(3)  # all but this image have windows of one size
    assert sum(refined) > 8 and batches == [8, sum(refined) - 8] + [1] * small
    for image, size, result in zip(images, sizes, results, strict=True):
        with torch.no_grad():
            output = model(image[None], max_windows=3)
        logits = F.interpolate(output.logits, size=size, mode="bilinear", align_corners=False)[0]
        differing = (result.labels.long() != logits.argmax(0)).float().mean()
        assert result.labels.shape == size and differing < 1e-3
        assert result.windows == [tuple(box) for box in output.windows[0].tolist()]
        assert result.refined == output.refined[0].tolist()
        torch.testing.assert_close(result.coarse_logits, output.coarse_logits[0], atol=1e-4, rtol=1e-4)


def test_images_of_a_sequence_decide_alone(tiny_model):
    """Where the scope is the batch: a tensor is one, a sequence is none."""
    images = torch.randn(3, 3, 112, 160)
    model = balance_gate(lively(tiny_model(certainty_scope="batch")), images)
    together, alone = model.segment(images), model.segment(list(images))
    assert together[0].refined == together[1].refined == together[2].refined
    assert alone[0].refined != alone[1].refined
    for image, result in zip(images, alone, strict=True):
        assert result.refined == model.segment(image[None])[0].refined


def test_what_segment_refuses(tiny_model):
    model = tiny_model()
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="in_strips"):
        model.segment(image, [(32, 32)], in_strips=True)
    for sizes in ([(32, 32), (1, 1)], [(32,)], [32], [(0, 5)], [(-1, 4)], [(5.5, 6)], [(3, 4), 5], [("a", 3)]):
        with pytest.raises(ValueError, match=r"one \(height, width\) for each image, 1 in all.*got "):
            model.segment(image, sizes)
    for argument in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match="leave them out with coarse_mode='sliding'"):
            tiny_model(coarse_mode="sliding")(image, **{argument: True})
    with pytest.raises(ValueError, match="at least one patch"):
        model.segment([image[0], torch.randn(3, 5, 5)])
    with pytest.raises(ValueError, match=r"NaN or infinite values .*\[0, 7\]"):
        broken = torch.cat([image, image])
        broken[1, 0, 0, :7] = float("nan")
        model.segment(broken)
    with pytest.raises(ValueError, match="eval mode"):
        model.train().segment(image)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["accelerator", "cpu"],
)
def test_a_batch_that_does_not_fit_is_halved_with_one_warning(error, tiny_model, loading_log):
    image = torch.randn(1, 3, 112, 160)
    model = lively(tiny_model(window_batch_size=8))
    with torch.no_grad():
        expected = model(image, refine="all").logits
        sizes = []

        def fail(module, inputs):
            sizes.append(len(inputs[1]))
            if sizes[-1] > 2:
                raise error

        model.refine_head.register_forward_pre_hook(fail)
        output = model(image, refine="all").logits
        assert sizes == [8, 4] + [2] * 6
        assert disagreement(output, expected, tolerance=1e-5) <= 1
        sizes.clear()
        model(image, refine="all")
    assert sizes == [2] * 6, "what does not fit is not tried again"
    assert sum("do not fit into the memory" in record.message for record in loading_log.records) == 1


def test_a_batch_smaller_than_allowed_is_halved_as_well(tiny_model):
    model, sizes = tiny_model(window_batch_size=100), []

    def fail(module, inputs):
        sizes.append(len(inputs[1]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("no memory left")

    model.refine_head.register_forward_pre_hook(fail)
    with torch.no_grad():
        model(torch.randn(1, 3, 112, 160), refine="all")
    assert sizes == [12, 6, 3, 3, 3, 3]


class Memory:
    """A device that holds so many windows; the sizes of the batches that were tried on it."""

    def __init__(self, model, most):
        self.most, self.sizes = most, []
        model.refine_head.register_forward_pre_hook(self.take)

    def take(self, module, inputs):
        self.sizes.append(len(inputs[1]))
        if self.sizes[-1] > self.most:
            raise torch.OutOfMemoryError("no memory left")

    def batches(self, model, image, images=1) -> list[int]:
        """The sizes that are tried for some images, one after the other."""
        self.sizes.clear()
        with torch.no_grad():
            for _ in range(images):
                model(image, refine="all")
        return self.sizes


def test_a_batch_that_did_not_fit_is_tried_again_when_smaller_ones_have_fitted(tiny_model, loading_log):
    image = torch.randn(1, 3, 112, 160)  # 12 windows
    model = tiny_model(window_batch_size=4)
    memory = Memory(model, most=2)
    assert memory.batches(model, image) == [4] + [2] * 6
    memory.most = 100  # whatever took the memory is gone
    assert memory.batches(model, image, 2) == [2] * 10 + [4]
    assert memory.batches(model, image, 2) == [4] * 6
    assert len(loading_log.records) == 1


def test_a_batch_that_never_fits_is_tried_ever_less(tiny_config):
    sizes = []

    def step(windows):
        sizes.append(len(windows))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("no memory left")
        return windows

    windows = [(torch.zeros(3, 16, 16),)] * 1200
    done = [number for number, _ in run_windows(tiny_config(window_batch_size=2), {}, step, windows)]
    assert done == list(range(1200))
    failures = [number for number, size in enumerate(sizes) if size > 1]
    fitted = [later - earlier - 1 for earlier, later in itertools.pairwise(failures)]
    assert fitted == [16, 32, 64, 128, 256, 512]


def test_windows_of_another_size_have_their_own_limit(tiny_model):
    """Half as many large windows say nothing of small ones, whether they come from another image or another stage."""
    model = tiny_model(window_batch_size=4)
    memory = Memory(model, most=2)
    assert memory.batches(model, torch.randn(1, 3, 112, 160)) == [4] + [2] * 6
    memory.most = 4
    assert memory.batches(model, torch.randn(1, 3, 48, 160)) == [4]
    assert memory.batches(model, torch.randn(1, 3, 112, 160)) == [2] * 6


@pytest.mark.parametrize(
    "most, error, batches",
    [(0, torch.OutOfMemoryError("none left"), [4, 2, 1]), (1, RuntimeError("shapes do not match"), [4])],
    ids=["one window does not fit", "another error"],
)
def test_what_smaller_batches_do_not_cure_is_raised(most, error, batches, tiny_model):
    model, sizes = tiny_model(window_batch_size=4), []

    def fail(module, inputs):
        sizes.append(len(inputs[1]))
        if sizes[-1] > most:
            raise error

    model.refine_head.register_forward_pre_hook(fail)
    with torch.no_grad(), pytest.raises(RuntimeError, match=str(error)):
        model(torch.randn(1, 3, 112, 160), refine="all")
    assert sizes == batches


def test_strips_of_single_windows_compute_what_the_whole_image_does(tiny_model, monkeypatch):
    """The same inputs bit by bit in the same order, as on accelerators, so that no rounding can tell them apart."""
    monkeypatch.setattr(inference_vfmseg, "keeps_coarse_whole", lambda device: False)
    model, image = lively(tiny_model(window_batch_size=1)), torch.randn(1, 3, 112, 160)
    seen, refine_windows = [], model.refine_windows
    model.refine_windows = lambda *inputs: (seen.append(inputs), refine_windows(*inputs))[1]
    with torch.no_grad():
        labels = model(image, refine="all").logits[0].argmax(0)
        whole, _ = seen.copy(), seen.clear()
        strips = model.segment(image, refine="all", in_strips=True)[0].labels
    assert len(whole) == len(seen) == 12
    assert all(torch.equal(*pair) for both in zip(whole, seen, strict=True) for pair in zip(*both, strict=True))
    assert torch.equal(strips, labels)


def least_peak(call) -> int:
    """Bytes that a call needs: the least of three runs, because the allocator and other threads only ever add."""
    peaks = []
    for _ in range(3):
        with PeakMemory(torch.device("cpu"), interval=0.001) as memory:
            call()
        peaks.append(memory.peak)
    return min(peaks)


@pytest.mark.slow
@pytest.mark.parametrize("in_strips", [False, True], ids=["whole", "strips"])
def test_memory_is_what_is_stated_and_not_more_for_more_windows(in_strips, tiny_model, monkeypatch):
    """With a factor for what the allocator holds back."""
    monkeypatch.setattr("vfmseg_hf.model.window_batches.MAX_TEMPORARY_VALUES", 2**20)
    monkeypatch.setattr("vfmseg_hf.model.windows.MAX_TEMPORARY_VALUES", 2**20)
    image, bounds = torch.randn(1, 3, 768, 640), set()
    for stride in (128, 32):
        model = tiny_model(num_labels=60, window_size=128, window_stride=stride, window_batch_size=2)
        stated = inference_memory(model.config, 768, 640, 2, in_strips)
        bounds.add(stated)
        with torch.no_grad():
            model(image[..., :128, :128], refine="all")  # what torch sets up once
            peak = least_peak(
                lambda model=model: (
                    model.segment(image, refine="all", max_windows=6, in_strips=True)
                    if in_strips
                    else model(image, refine="all", max_windows=6)
                )
            )
        assert peak <= 1.1 * stated + 2**24, f"{peak / 2**20:.0f} MiB, stated {stated / 2**20:.0f}"
    assert max(bounds) <= 1.1 * min(bounds), "more windows may take no more memory"


def test_what_large_images_take(tiny_config):
    config = tiny_config(window_size=512, window_stride=320)
    on_cpu, on_cuda = (
        [inference_memory(config, 4096, 8192, 1, in_strips, device) for in_strips in (False, True)]
        for device in ("cpu", "cuda")
    )
    assert 24 * 2**30 > on_cpu[0] > on_cpu[1]
    assert on_cuda[1] < 0.4 * on_cuda[0]


def test_window_batch_follows_the_free_memory(tiny_config, monkeypatch):
    config, window = tiny_config(), torch.empty(3, 64, 64)
    needed = window_memory(config, 64, 64, 4)
    for free, expected in ((needed * 5, 2), (needed, 1), (0, 1), (needed * 1000, 64), (None, 64)):
        monkeypatch.setattr("vfmseg_hf.model.window_batches.free_memory", lambda device, free=free: free)
        assert choose_window_batch_size(config, window) == expected
    assert choose_window_batch_size(tiny_config(window_batch_size=9), window) == 9


def test_what_the_cache_of_files_holds_is_free_memory(monkeypatch):
    """What is unused is little on a machine that has read many files: windows went one by one on it."""
    memory = SimpleNamespace(total=16 << 30, free=100 << 20, available=12 << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert free_memory(torch.device("cpu")) == 12 << 30


# ------------------------------------------------------------------------------------------------------------ compile


def test_compiled_windows_have_few_shapes(tiny_model):
    """Full batches, and a last one that is filled up to a power of two; the surplus is dropped."""
    images = torch.randn(2, 3, 112, 160)
    model = balance_gate(lively(tiny_model(window_batch_size=5)), images)
    with torch.no_grad():
        expected = model(images)
        everything = model(images, refine="all").logits
    windows = int(expected.refined.sum())
    assert windows > 5 and windows % 5
    sizes = []

    def backend(graph, inputs):
        sizes.append(next(len(tensor) for tensor in inputs if tensor.ndim == 4 and tensor.shape[1:] == (3, 64, 64)))
        return graph.forward

    model.compile_windows(backend=backend, fullgraph=True)
    with torch.no_grad():
        output = model(images)
        assert disagreement(output.logits, expected.logits, tolerance=1e-4) <= 1
        assert disagreement(model(images, refine="all").logits, everything, tolerance=1e-4) <= 1
        model(images[:1], refine="all", max_windows=1)
    assert sizes[0] == 5 and 1 in sizes, "a budget of one window costs one"
    assert set(sizes) <= {1, 2, 4, 5} and len(sizes) == len(set(sizes))


def test_a_copy_of_a_compiled_model_is_its_own(tiny_model):
    """Copies, and so models in 8 bits or on another device, refine with their own weights; they can be pickled."""
    model, image = tiny_model(), torch.randn(1, 3, 96, 96)
    model.compile_windows(backend="eager")
    expected = model(image, refine="all").logits
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert disagreement(clone(image, refine="all").logits, expected) <= 1 and not clone.windows_are_compiled
        for parameter in clone.refine_head.parameters():
            parameter.data.zero_()
        assert disagreement(clone(image, refine="all").logits, expected) > 1
    assert model.windows_are_compiled and torch.equal(model(image, refine="all").logits, expected)


@pytest.mark.parametrize("images", [[], torch.empty(0, 3, 64, 64)])
def test_nothing_to_segment(images, tiny_model):
    with pytest.raises(ValueError, match="the batch is empty"):
        tiny_model().segment(images)


@pytest.mark.parametrize(
    "asked, refined", [({}, 0), ({"refine": True}, 0), ({"refine": "all"}, 2), ({"max_windows": 1}, 1)]
)
def test_a_refine_head_that_did_not_train_is_used_only_where_it_is_asked_for(asked, refined, tiny_model):
    model = lively(tiny_model(detail_loss_weight=0, certainty_threshold=1.0, keep_at_threshold=False))
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 96), **asked)
    assert output.refined.sum() == min(refined, output.refined.numel())
