"""The image processor of an imported model as a `Preprocess`, and as the normalisation inside its program."""

from typing import Any

from dmedge.data.transforms import RESAMPLES, Preprocess
from dmedge.errors import DataError
from dmedge.model.hf import quietly
from dmedge.model.hf_source import Source

KNOWN = (
    "CLIPImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
    "BitImageProcessor",
    "MobileViTImageProcessor",
)


def read_processor(source: Source) -> Any:
    """The image processor that is saved with a checkpoint.

    Raises:
        DataError: there is none, or one of a kind that is not known.
    """
    with quietly() as transformers:
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{source.name}: its image processor cannot be read ({error}); "
                "expected preprocessor_config.json beside the weights; save it there"
            ) from error
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    if name not in KNOWN:
        raise DataError(f"{source.name}: a {name}; expected one of {', '.join(KNOWN)}; choose another model")
    return processor


def read_preprocess(processor: Any, name: str) -> Preprocess:
    """Its resizing and cropping.

    Raises:
        DataError: it does not resize, or not to a fixed square, or by an unknown filter.
    """
    resamples = {int(code): key for key, code in RESAMPLES.items()}
    if not processor.do_resize or int(processor.resample) not in resamples:
        raise DataError(
            f"{name}: do_resize = {processor.do_resize}, resample = {processor.resample}; "
            f"expected resizing by one of {resamples}; mend preprocessor_config.json"
        )
    size, resample = processor.size, resamples[int(processor.resample)]
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    final = crop or size
    if final.height and final.height == final.width:
        if crop and size.shortest_edge and not size.longest_edge:
            edge = int(size.shortest_edge)
            return Preprocess(int(crop.height), fit="crop-centre", resample=resample, shortest_edge=edge)
        if (size.height, size.width) == (final.height, final.width):
            return Preprocess(int(final.height), fit="squash", resample=resample)
    raise DataError(
        f"{name}: resizes to {_brief(size)} and crops to {_brief(crop)}; "
        "expected one square, or the shortest edge and a square crop; mend preprocessor_config.json"
    )


def normalisation(processor: Any, name: str) -> dict[str, Any]:
    """Its rescaling, mean, standard deviation and channel order, as `ImageSpec` takes them.

    Raises:
        DataError: mean or standard deviation are not of three channels.
    """
    table: dict[str, Any] = {"rescale": float(processor.rescale_factor) if processor.do_rescale else 1.0}
    if processor.do_normalize:
        mean, std = (tuple(map(float, values)) for values in (processor.image_mean, processor.image_std))
        if len(mean) != 3 or len(std) != 3:
            raise DataError(f"{name}: image_mean {mean}, image_std {std}; expected three of each")
        table |= {"mean": mean, "std": std}
    if getattr(processor, "do_flip_channel_order", False):
        table["channels"] = "BGR"
    return table


def _brief(size: Any) -> object:
    return None if size is None else {key: value for key, value in dict(size).items() if value}
