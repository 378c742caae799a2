"""In the manner of SSR (Huang et al. 2024): rehearse what the model itself still says."""

from __future__ import annotations

from collections.abc import Iterator

from cl_bench.data.examples import Example
from cl_bench.methods.base import Method, Options, Phase, Stage, State


class SSROptions(Options):
    prompts: int = 3
    tokens: int = 4
    temperature: float = 1.0


class SSR(Method[SSROptions]):
    """A few prompts of every task are kept; later stages train on fresh answers to them too."""

    name = "ssr"
    keeps = "examples"

    def __init__(self, options: SSROptions | None = None) -> None:
        super().__init__(options)
        self._prompts: list[list[str]] = []

    def phases(self, stage: Stage) -> Iterator[Phase]:
        options = self.options
        prompts = [prompt for _, prompt in self._prompts]
        texts = stage.generate(prompts, options.tokens, options.temperature, "rehearsal")
        rehearsed = [
            Example(prompt, text, -1 - i, task, "generate")
            for i, ((task, prompt), text) in enumerate(zip(self._prompts, texts, strict=True))
        ]
        stage.notes["rehearsed"] = texts
        yield Phase([*stage.mixture, *rehearsed], stage.epochs)

    def finish(self, stage: Stage) -> None:
        some = stage.sample(self.options.prompts, "prompts")
        self._prompts += [[example.task, example.prompt] for example in some]

    def state(self) -> State:
        return State(records={"prompts": self._prompts})

    def load_state(self, state: State) -> None:
        self._prompts = list(state.records["prompts"])
