"""What a file tells of a network beside its shapes: by its format, its keys, or how a pickle was made."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tools.description.fields import Fields, Guess
from tools.description.nvlabs import named_size
from utils import sources
from utils.quote import plain, quote
from utils.weights import Checkpoint, describe_pickle

IDDPM = "iDDPMPrecond"
"""What is around a network of improved-diffusion in NVlabs' programs."""
_CLASSES = {"song_unet": "SongUNet", "edm2_unet": "UNet", "adm": "DhariwalUNet"}
_TOLD = {  # arguments of no use here: shapes tell them, or they change nothing when nothing is trained
    *("img_resolution", "img_channels", "in_channels", "out_channels", "label_dim", "augment_dim"),
    *("model_channels", "channel_mult", "channel_mult_emb", "channel_mult_noise", "num_blocks"),
    *("attn_resolutions", "embedding_type", "encoder_type", "decoder_type", "label_dropout", "use_fp16"),
}
_FOLLOWED = {"dropout", "channels_per_head", "resample_filter"}
_BUILT_IN = {
    **{"label_balance": 0.5, "concat_balance": 0.5, "res_balance": 0.3, "attn_balance": 0.3},
    "clip_act": 256,
}
"""Arguments that our networks of these families have as the programs' defaults are, and no other."""
_OPTIONAL = "not told; true is usual, NVlabs' programs can leave the class out; false if none was in training"


class Told(NamedTuple):
    """What a file tells of one network in it."""

    fields: Fields = MappingProxyType({})
    """Of the model section, in place of what shapes let guess."""
    around: str | None = None
    """Class of NVlabs' programs around the network; empty where it is not told which."""
    made: Mapping[str, Any] = MappingProxyType({})
    """Numbers of what is around it."""
    notes: tuple[str, ...] = ()
    """To be said of it."""

    def complete(self, fields: Fields) -> dict[str, Any]:
        """Put what is told into a model section that shapes gave."""
        without = {"num_heads"} if "num_head_channels" in self.fields else set()
        without |= set() if "num_classes" in fields else {"label_optional"}
        found = {**fields, **self.fields}
        return {key: field for key, field in found.items() if key not in without}


class Origin:
    """Where the networks of a file come from."""

    def __init__(self, checkpoint: Checkpoint):
        """
        Args:
            checkpoint: A file, no folder.

        Raises:
            ValueError: A pickle of NVlabs does not say plainly how its networks were made.
            OSError: It cannot be opened.
        """
        with checkpoint.path.open("rb") as file:
            head = file.read(512)
        self.is_equinox = sources.has_arrays(head)
        self._objects = describe_pickle(checkpoint.path) if sources.has_objects(head) else {}
        keys = [key for state in checkpoint.saved for key in state.named]
        self.image_size = named_size(f"enc.{key.rpartition('enc.')[2]}" for key in keys if "enc." in key)
        """Of a network under NVlabs' names, None for any other."""

    @property
    def is_described(self) -> bool:
        """Whether the file says how its networks were made."""
        return bool(self._objects)

    def tell(self, family: str, where: str) -> Told:
        """Say what is told of a network.

        Args:
            family: Its name in configs.
            where: The place in the file that it lies in.

        Raises:
            ValueError: It was made as no network of ours is; the message is without the file's name.
        """
        if family == "mixer":
            return Told({"t_end": 10.0} if self.is_equinox else {})  # others of equinox are not read
        if family not in _CLASSES or self.image_size is None:
            return Told()
        fields = {}
        if family == "adm":
            fields = {"num_head_channels": 64, "use_new_attention_order": True}
            fields["label_optional"] = Guess(True, _OPTIONAL)
        name, _, inner = where.partition(".")
        if name not in self._objects:
            return Told(fields, "")
        outer = self._objects[name]
        network = outer.get("modules", {}).get(inner.partition(".")[0], outer)
        around = outer["class_name"] if network is not outer else ""
        if network["class_name"] != _CLASSES[family]:
            made_as = f"It was made as {plain(network['class_name'], 60)}, of which nothing is known here."
            return Told(fields, around, outer["attributes"], (made_as,))
        arguments = network["init_kwargs"]
        if not isinstance(arguments, dict):
            raise ValueError(f"it was made with {quote(arguments)} in place of arguments; it is damaged")
        _check_built_in(family, arguments)
        fields |= _followed(family, network)
        return Told(fields, around, outer["attributes"], _say_unknown(arguments))


def _check_built_in(family: str, arguments: Mapping[str, Any]) -> None:
    needed = _BUILT_IN | ({"resample_filter": [1, 1]} if family == "edm2_unet" else {})
    for name, value in needed.items():
        if arguments.get(name, value) != value:
            raise ValueError(f"it was made with {name} {quote(arguments[name])}; allowed is {quote(value)}")


def _followed(family: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a network's arguments tell, or the defaults of its class."""
    arguments = network["init_kwargs"]
    fields = {"dropout": arguments["dropout"]} if "dropout" in arguments else {}
    if family == "edm2_unet":
        fields["num_head_channels"] = arguments.get("channels_per_head", 64)
    if family == "song_unet" and "resample_filter" in arguments:
        fields["resample_filter"] = arguments["resample_filter"]
    if family == "adm" and network["attributes"].get("label_dropout"):
        fields["label_optional"] = True
    return fields


def _say_unknown(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    unknown = sorted(arguments.keys() - _TOLD - _FOLLOWED - _BUILT_IN.keys())
    if not unknown:
        return ()
    names = ", ".join(plain(name, 60) for name in unknown[:8])
    return (f"It was made with {names}, of which nothing is known here: see that they change nothing.",)
