"""A pipeline for models of classes and of text, whose null condition comes from its own parts.

This file needs torch, diffusers and transformers alone: `save_pretrained` puts a copy of it (and of the code of every part that is not
theirs) beside the weights, so that `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` opens the folder anywhere.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# diffusers' word for what each objective makes a network predict.
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "flow": "flow_prediction"}
_LEARNED = ("learned", "learned_range")
_THEIRS = ("diffusers", "transformers")
_PREFIX = "corruptkit_"  # of copied code: a file named as a folder of diffusers.pipelines (such as "dit") would be looked up there

Told = tuple[Tensor, Tensor | None]  # states (B, d) or (B, T, d), and the mask of their tokens


class ConditionalPipeline(DiffusionPipeline):  # type: ignore[misc]  # Any to a checker that skips diffusers
    """Images from class labels or prompts, by a DiT or a UNet in pixels or latents, with noise, velocity or flow prediction.

    Timesteps are those of training: 0 to 999 for eps and v; for flow a thousand times sigma, in (0, 1000], whole or not.
    """

    model_cpu_offload_seq = "text_encoder->class_embedder->transformer->unet->vae"
    _optional_components = ["transformer", "unet", "class_embedder", "tokenizer", "text_encoder", "vae"]  # noqa: RUF012 - diffusers' list

    def __init__(  # noqa: PLR0913 - diffusers saves exactly these
        self,
        *,
        scheduler: SchedulerMixin,
        transformer: ModelMixin | None = None,
        unet: ModelMixin | None = None,
        class_embedder: ModelMixin | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: PreTrainedModel | None = None,
        vae: ModelMixin | None = None,
        objective: str = "eps",
        id2label: dict[int, str] | dict[str, str] | None = None,
        text: dict[str, Any] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        latent_scale: float | None = None,
        latent_shift: float | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.scheduler: Any
        self.register_modules(scheduler=scheduler, transformer=transformer, unet=unet, class_embedder=class_embedder)
        self.register_modules(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae)
        self.register_to_config(
            objective=objective,
            id2label=None if id2label is None else {int(number): name for number, name in id2label.items()},  # JSON's keys are text
            text=text,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            latent_scale=latent_scale,
            latent_shift=latent_shift,
            info=info,
        )

    @property
    def network(self) -> Any:
        return self.transformer if self.transformer is not None else self.unet

    @property
    def classes(self) -> int | None:
        """K, so that K is the null id; None for text."""
        holder = self.class_embedder if self.class_embedder is not None else self.transformer
        return None if holder is None else holder.config.classes

    @torch.no_grad()
    def __call__(  # noqa: PLR0913 - diffusers' names
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        prompt: str | Sequence[str] | None = None,
        *,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Images of the labels (ids or names) or prompts: u + s (c - u) of the conditional and unconditional predictions at scale s.

        `seeds` gives each image a generator of its own, so that it does not depend on the others of its batch. `output_type` is "pil",
        "np" (B, H, W, C in [0, 1]), "pt" (B, C, H, W in [0, 1]), "uint8" (B, H, W, C bytes) or "latent" (what the scheduler ends with).
        """
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self.check_scheduler()
        self._drop_variance()
        told, null = self._encode_condition(class_labels, prompt)
        count = len(told[0])
        if seeds is not None:
            generator = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        sample = self._first_sample(count, generator, latents)
        self.scheduler.set_timesteps(num_inference_steps or self.config.num_inference_steps, device=self._execution_device)
        sample = self._denoise(sample, told, null, scale, {"generator": generator})
        images = self._show_images(sample, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _denoise(self, sample: Tensor, told: Told, null: Told, scale: float, drawing: dict[str, Any]) -> Tensor:
        """From noise to what the network makes of it, by the scheduler's own steps; `drawing` goes to a scheduler that draws."""
        drawing = drawing if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for index, step in enumerate(self.progress_bar(self.scheduler.timesteps)):
            scaled = self.scheduler.scale_model_input(sample, step) if hasattr(self.scheduler, "scale_model_input") else sample
            time = network_time(self.scheduler, self.config.objective, index).to(self._execution_device)
            output = self._predict(scaled, time.expand(len(sample)), told, null, scale)
            if not self._uses_variance():
                output = output[:, : sample.shape[1]]
            sample = self.scheduler.step(output, step, sample, **drawing, return_dict=False)[0]
        return sample

    def check_scheduler(self) -> None:
        """Refuse a scheduler that would read the network's output as something else."""
        config, name = self.scheduler.config, type(self.scheduler).__name__
        matching = name.startswith("FlowMatch")  # these know flow alone, and have no word for it
        found = "flow_prediction" if matching else config.get("prediction_type", "epsilon")
        expected = PREDICTIONS[self.config.objective]
        if found != expected:
            raise ValueError(f"found {name} for {found}, expected {expected}; give its from_config prediction_type='{expected}'")
        if expected == "flow_prediction" and not matching and not config.get("use_flow_sigmas"):
            raise ValueError(f"found {name} without flow sigmas, expected a flow; give its from_config use_flow_sigmas=True")
        if self._uses_variance() and not self._learns_variance():
            raise ValueError(f"found {name} with {config.variance_type} variance, expected 'fixed_small'; this network learnt none")

    def encode_prompts(self, prompts: Sequence[str]) -> Told:
        """(B, d) means over each prompt's tokens, of norm 1, or (B, T, d) states and their (B, T) mask, as in training."""
        text = self.config.text
        pooled, longest = text["output"] == "pooled", text["max_tokens"]
        found = self.tokenizer(list(prompts), truncation=True, max_length=longest)["input_ids"]
        # Where nothing marks a caption's begin and end, the empty one has no token: one of padding stands for it.
        found = [tokens or [self.tokenizer.pad_token_id] for tokens in found]
        length = max(map(len, found)) if pooled else longest
        ids = torch.tensor([tokens + [self.tokenizer.pad_token_id] * (length - len(tokens)) for tokens in found])
        mask = torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in found])
        ids, mask = ids.to(self._execution_device), mask.to(self._execution_device)
        seen = mask if text["encoder_masked"] else torch.ones_like(mask)
        hidden = self.text_encoder(input_ids=ids, attention_mask=seen).last_hidden_state  # (B, T, d)
        if not pooled:
            return hidden, mask.bool() if text["masked"] else None
        weights = mask.unsqueeze(2).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1), None

    def find_ids(self, labels: Sequence[int | str]) -> list[int]:
        """Class ids of ids or names; K itself is the null condition."""
        assert self.classes is not None
        names: dict[str, list[int]] = {}
        for number, name in (self.config.id2label or {}).items():
            names.setdefault(name, []).append(int(number))
        ids = []
        for label in labels:
            found = names.get(label, []) if isinstance(label, str) else [int(label)]
            if len(found) != 1 or not 0 <= found[0] <= self.classes:
                which = f"{len(found)} classes of that name" if isinstance(label, str) else "no such class"
                raise ValueError(f"found label {label!r} ({which}), expected an id from 0 to {self.classes - 1} or a name in id2label")
            ids.append(found[0])
        return ids

    def _encode_condition(self, labels: Any, prompt: Any) -> tuple[Told, Told]:
        """The condition of each image, and the null condition as a batch of one."""
        if (labels is None) == (prompt is None) or (labels is None) == (self.classes is not None):
            wanted = "prompt" if self.classes is None else "class_labels"
            raise ValueError(f"found class_labels {labels!r} and prompt {prompt!r}, expected {wanted} alone; give that")
        if self.classes is None:
            return self.encode_prompts([prompt] if isinstance(prompt, str) else prompt), self.encode_prompts([""])
        ids = self.find_ids([labels] if isinstance(labels, int | str) else list(labels))
        table = self.class_embedder if self.class_embedder is not None else self.transformer.class_table
        rows = table(torch.tensor([*ids, self.classes], device=self._execution_device))
        return (rows[:-1], None), (rows[-1:], None)

    def _first_sample(self, count: int, generator: Any, latents: Tensor | None) -> Tensor:
        """(B, C, H, W) float32 noise, drawn on the generator's own device, at the scheduler's first strength."""
        config = self.network.config
        shape = (count, config.in_channels, config.sample_size, config.sample_size)
        if latents is None:
            if isinstance(generator, list) and len(generator) != count:
                raise ValueError(f"found {len(generator)} seeds for {count} images, expected one each; give as many")
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        elif latents.shape != shape:
            raise ValueError(f"found latents of shape {tuple(latents.shape)}, expected {shape}; give these")
        return latents.to(self._execution_device, torch.float32) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def _predict(self, sample: Tensor, time: Tensor, told: Told, null: Told, scale: float) -> Tensor:
        """(B, C or 2C, H, W): the guided prediction, with the conditional variance behind it where the network learnt one."""
        if scale == 1.0:
            return self._run_network(sample, time, *told)
        count = len(sample)
        # One batch for both: the second half is told the null condition.
        states = torch.cat([told[0], null[0].expand_as(told[0])])
        mask = None if told[1] is None or null[1] is None else torch.cat([told[1], null[1].expand_as(told[1])])
        output = self._run_network(sample.repeat(2, 1, 1, 1), time.repeat(2), states, mask)
        conditional, free = output[:count], output[count:]
        mean, base = conditional[:, : sample.shape[1]], free[:, : sample.shape[1]]
        return torch.cat([base + scale * (mean - base), conditional[:, sample.shape[1] :]], dim=1)

    def _run_network(self, sample: Tensor, time: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        kind = self.network.dtype
        sample, states = sample.to(kind), states.to(kind)
        if self.transformer is not None:
            output = self.transformer(sample, time, states)
        elif self.unet.config.get("cross_attention_dim") is None:
            output = self.unet(sample, time, class_labels=states, return_dict=False)[0]
        else:
            tokens = states.unsqueeze(1) if states.ndim == 2 else states
            output = self.unet(sample, time, tokens, encoder_attention_mask=mask, return_dict=False)[0]
        wide: Tensor = output.float()  # the scheduler's arithmetic is float32 whatever the network's is
        return wide

    def _learns_variance(self) -> bool:
        learnt: bool = (
            self.network.out_channels == 2 * self.network.config.in_channels
            if self.transformer is not None
            else (self.unet.config.out_channels == 2 * self.unet.config.in_channels)
        )
        return learnt

    def _uses_variance(self) -> bool:
        """DDPM's sampler alone takes a learned variance; the others are told the mean."""
        return isinstance(self.scheduler, DDPMScheduler) and self.scheduler.config.variance_type in _LEARNED

    def _drop_variance(self) -> None:
        """DPM-Solver would cut a learned variance off after three channels, whatever their number: it is cut off here."""
        if self.scheduler.config.get("variance_type") in _LEARNED and not self._uses_variance():
            self.scheduler = type(self.scheduler).from_config(self.scheduler.config, variance_type=None)

    def _show_images(self, sample: Tensor, output_type: str) -> Any:
        """What the network made, decoded where it is latents, as `output_type` asks."""
        if output_type == "latent":
            return sample
        if self.vae is not None:
            stated = self.vae.config
            scale = stated.get("scaling_factor", 1.0) if self.config.latent_scale is None else self.config.latent_scale
            shift = (stated.get("shift_factor") or 0.0) if self.config.latent_shift is None else self.config.latent_shift
            sample = self.vae.decode((sample / scale + shift).to(self.vae.dtype), return_dict=False)[0].float()
        if output_type == "pt":
            return ((sample + 1) / 2).clamp(0, 1)
        rows = sample.permute(0, 2, 3, 1)  # (B, H, W, C)
        if output_type == "np":
            return ((rows + 1) / 2).clamp(0, 1).cpu().numpy()
        images = round_pixels(rows).cpu().numpy()
        return images if output_type == "uint8" else [_make_image(image) for image in images]

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002 - diffusers' signature
        """model_index.json, and beside it the code of this class and of every part that is not diffusers' or transformers'."""
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text(encoding="utf-8"))
        index.pop("_name_or_path", None)  # where it was opened from is nobody's business
        index["_class_name"] = [_copy_code(type(self), folder, "pipeline"), type(self).__name__]
        for name in self._optional_components:
            kind = type(getattr(self, name))
            if getattr(self, name) is not None and kind.__module__.partition(".")[0] not in _THEIRS:
                index[name] = [_copy_code(kind, folder / name), kind.__name__]
        text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / self.config_name).write_text(text, encoding="utf-8")

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The saved index; where this class is a package's, not a folder's copy, its parts are too: no code of the folder runs."""
        loaded = super().load_config(*args, **kwargs)
        package = cls.__module__.partition(".pipelines.")[0]
        index = loaded[0] if isinstance(loaded, tuple) else loaded
        if package == cls.__module__ or not isinstance(index.get("_class_name"), list):
            return loaded
        index["_class_name"] = cls.__name__
        for name in cls._optional_components:
            library, kind = index.get(name) or (None, None)
            if isinstance(library, str) and library.startswith(_PREFIX):
                home = f"{package}.models.{library.removeprefix(_PREFIX)}"
                importlib.import_module(home)  # diffusers takes a class from a module that is imported already
                index[name] = [home, kind]
        return loaded


def network_time(scheduler: Any, objective: str, index: int) -> Tensor:
    """What the network is told the time of a step is; some schedulers cut a flow's time to a whole number, their sigmas are exact."""
    time: Tensor = scheduler.timesteps[index] if objective != "flow" else scheduler.sigmas[index] * scheduler.config.num_train_timesteps
    return time


def round_pixels(images: Tensor) -> Tensor:
    """uint8 of images in [-1, 1]: clamp((x + 1) / 2 * 255) to [0, 255], rounded to nearest (halves to even)."""
    return ((images.float() + 1) / 2 * 255).clamp(0, 255).round().to(torch.uint8)


def _make_image(pixels: np.ndarray[Any, Any]) -> Image.Image:
    """One (H, W, C) image of bytes, grey or in colour."""
    if pixels.shape[2] not in (1, 3):
        raise ValueError(f"found {pixels.shape[2]} channels, expected 1 or 3 for a picture; give a vae, or output_type='latent'")
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _copy_code(kind: type, folder: Path, name: str = "") -> str:
    """Copy the file that defines a class into a folder; the name of the module that it makes there."""
    source = inspect.getsourcefile(sys.modules[kind.__module__])
    if source is None:
        raise ValueError(f"found no file for {kind.__module__}, expected its source; save from an environment that has it")
    name = name or _PREFIX + Path(source).stem.removeprefix(_PREFIX)
    target = folder / f"{name}.py"
    if not target.exists() or not target.samefile(source):
        shutil.copyfile(source, target)
    return name
