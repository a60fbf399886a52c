import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from longilesion.errors import InputError
from longilesion.hounsfield import IntensitySample, implausibility
from longilesion.images import read_scan
from test.phantoms import PhantomCase
from test.unit.case_folders import write_image

Intensities = NDArray[np.generic]


def finding(values: Intensities) -> str | None:
    sample = IntensitySample(values.shape)
    for _ in sample.taken(values):
        pass
    return implausibility(sample)


def windowed(hu: Intensities, low: float, high: float) -> Intensities:
    return np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1)


def standardised(hu: Intensities) -> Intensities:
    values = hu.astype(np.float32)
    return (values - values.mean()) / values.std()


def with_range_of_its_own(hu: Intensities) -> Intensities:
    return np.rint(windowed(hu, hu.min(), hu.max()) * 255).astype(np.int16)


SHIFTED: dict[str, Callable[[Intensities], Intensities]] = {
    "by 1024": lambda hu: hu + 1024,
    "by 1000": lambda hu: hu + 1000,
    "by 1023, in fractions": lambda hu: hu.astype(np.float64) + 1023,
    "by 1024, without a sign": lambda hu: np.clip(hu.astype(np.int32) + 1024, 0, None).astype(np.uint16),
    "by 32768": lambda hu: (hu.astype(np.int32) + 32768).astype(np.uint16),
}
WINDOWS = ((-1024, 3071), (-1000, 400), (-160, 240), (-1350, 150), (-135, 215), (-1000, 1000))
SCALED: dict[str, Callable[[Intensities], Intensities]] = {
    "by a quarter": lambda hu: np.rint(hu / 4).astype(np.int16),
    "by a third": lambda hu: hu / 3,
    "by a thousand": lambda hu: hu / 1000,
    "to deviations from the mean": standardised,
    "from its lowest to its highest": with_range_of_its_own,
}
for window in WINDOWS:
    SCALED |= {
        f"to 0..1 from {window}": lambda hu, ends=window: windowed(hu, *ends),
        f"to -1..1 from {window}": lambda hu, ends=window: 2 * windowed(hu, *ends) - 1,
        f"to 0..100 from {window}": lambda hu, ends=window: 100 * windowed(hu, *ends),
        f"to 8 bits from {window}": lambda hu, ends=window: (255 * windowed(hu, *ends)).astype(np.uint8),
        f"to 0..255 from {window}": lambda hu, ends=window: np.rint(255 * windowed(hu, *ends)).astype(np.int16),
    }
LABELS: dict[str, Callable[[Intensities], Intensities]] = {
    "bone": lambda hu: (hu > 200).astype(np.uint8),
    "body": lambda hu: (hu > -300).astype(np.int16),
    "body, 255": lambda hu: (hu > -300).astype(np.int16) * 255,
    "few small ones": lambda hu: (np.arange(hu.size).reshape(hu.shape) % 50_021 < 3).astype(np.float32) * 7,
    "organs": lambda hu: np.digitize(gaussian_filter(hu.astype(np.float32), 3), [-500, -50, 20, 60]).astype(np.int32),
}


@pytest.fixture(scope="module")
def phantom_hu(phantom: PhantomCase) -> Intensities:
    return phantom.case.followups["primary"].hu


@pytest.mark.parametrize("change", SHIFTED)
def test_scan_without_its_intercept(phantom_hu: Intensities, change: str) -> None:
    assert "stored without the intercept" in (finding(SHIFTED[change](phantom_hu)) or "nothing")


@pytest.mark.parametrize("change", SCALED)
def test_scaled_scan(phantom_hu: Intensities, change: str) -> None:
    assert "scaled or windowed?" in (finding(SCALED[change](phantom_hu)) or "nothing")


@pytest.mark.parametrize("change", LABELS)
def test_label_map_in_place_of_a_scan(phantom_hu: Intensities, change: str) -> None:
    assert "a label map?" in (finding(LABELS[change](phantom_hu)) or "nothing")


def crops(hu: Intensities, generator: np.random.Generator, count: int) -> list[Intensities]:
    found = []
    for _ in range(count):
        size = np.minimum(generator.choice([32, 48, 64, 96, 128], 3), hu.shape)
        start = [int(generator.integers(0, length - side + 1)) for length, side in zip(hu.shape, size, strict=True)]
        found.append(hu[tuple(slice(low, low + side) for low, side in zip(start, size, strict=True))])
    return found


def test_phantom_and_its_crops_are_ct(phantom_hu: Intensities) -> None:
    for part in [phantom_hu, *crops(phantom_hu, np.random.default_rng(0), 40)]:
        assert finding(part) is None


@pytest.mark.parametrize("noise_hu", [4.0, 15.0, 60.0, 120.0])
@pytest.mark.parametrize(
    "tissues_hu",
    [
        (-1000,),
        (-850,),
        (-850, 40),
        (-500, -100, 40),
        (-100,),
        (-100, 50),
        (8,),
        (55,),
        (50, 110, 250),
        (60, 400),
        (-80, 300, 1400),
        (250, 700, 1300),
        (-60, 1500),
        (3071,),
        (40, 3071),
        (20, 1000),
    ],
    ids=str,
)
def test_crop_of_any_tissues_is_ct(tissues_hu: tuple[int, ...], noise_hu: float) -> None:
    generator = np.random.default_rng(len(tissues_hu))
    shape = (52, 52, 52)
    fields = gaussian_filter(generator.normal(size=(len(tissues_hu), *shape)), (0, 5, 5, 5))
    hu = gaussian_filter(np.array(tissues_hu, float)[fields.argmax(axis=0)], 0.7)
    hu += noise_hu * generator.normal(size=shape)
    for padding in (None, -1024, -2000, -3024):
        padded = hu.copy()
        if padding is not None:
            padded[:, :9] = padding
        assert finding(np.clip(padded, -3024, 3071)) is None
        assert finding(np.rint(np.clip(padded, -1024, 3071)).astype(np.int16)) is None


@pytest.mark.parametrize("value", [-1024, 0, 40])
def test_constant_volume_is_not_judged(value: int) -> None:
    assert finding(np.full((60, 60, 60), value, np.int16)) is None


def test_tiny_scan_is_not_judged() -> None:
    assert finding(np.random.default_rng(0).random((10, 20, 30))) is None


def test_person_is_told_and_the_container_warned(
    phantom_hu: Intensities, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_image(tmp_path / "scan.nii.gz", SHIFTED["by 1024"](phantom_hu))
    said = rf"{path}: air near \d+ and soft tissue near \d+: stored without the intercept .* expected Hounsfield units"
    with pytest.raises(InputError, match=said):
        read_scan(path)
    with caplog.at_level(logging.WARNING):
        assert read_scan(path, implausible="warn").hu.shape == phantom_hu.shape
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path}: air near")


@pytest.mark.slow
def test_real_ct_and_its_crops_are_ct(real_ct: Path) -> None:
    generator = np.random.default_rng(0)
    for path in sorted([*real_ct.glob("*/ct.nii.gz"), *real_ct.parent.glob("pairs/*/*.nii.gz")]):
        hu = read_scan(path).hu
        for part in crops(hu, generator, 30):
            assert finding(part) is None, path


@pytest.mark.slow
def test_changed_real_ct_is_found(real_ct: Path) -> None:
    for path in sorted(real_ct.glob("*/ct.nii.gz"))[::4]:
        hu = read_scan(path).hu
        for change, said in ((SHIFTED, "intercept"), (SCALED, "scaled"), (LABELS, "label map")):
            for name, changed in change.items():
                assert said in (finding(changed(hu)) or "nothing"), (path, name)
