"""Settings of the `verify` and `bench` stages."""

from dataclasses import dataclass

from dmedge.data.emoji import TEST_STYLE

RESAMPLES = 2000
PAIRS_PER_LANGUAGE = 50
CONFIDENCE = 0.95
MOST_MINUTES = 240
COOLDOWN_S = 120.0
LONGEST_COOLDOWN_S = 3600
REPEATS = 3
ROUNDS = 20  # of a repeat; at two turns a round, 120 samples per side at least: enough for p90


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """What to measure a bundle on, and how surely.

    `data` is "emoji", or a folder with images and captions; `style` and `split` choose among the
    emoji. The default is all there is: every name in every locale, in a style never trained on.
    """

    data: str = "emoji"
    style: str = TEST_STYLE
    split: str = "all"
    max_per_language: int | None = None  # texts; fewer are quicker, and may not be enough to pass
    runtime: str | None = None  # whose programs to judge; none named means the first of the bundle
    threads: int = 1
    workers: int = 1  # processes that share the work of a bundle; they change no figure
    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    seed: int = 0
    robustness: bool = False  # search with noisy pictures and misspelt texts as well: minutes more
    robustness_texts: int = 400  # that are perturbed, of all languages alike
    pairs_per_language: int = PAIRS_PER_LANGUAGE  # texts that heads decide on, each with its own and a strange picture

    def __post_init__(self) -> None:
        for name in ("robustness_texts", "pairs_per_language"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}; expected 1 or more")
        if min(self.threads, self.workers, self.max_per_language or 1) < 1 or self.max_per_language == 0:
            raise ValueError(
                f"threads {self.threads}, workers {self.workers}, max_per_language {self.max_per_language}; "
                "expected 1 or more of each"
            )
        if self.resamples < 100 or not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"resamples {self.resamples}, confidence {self.confidence}; expected 100 or more, and 0.5 to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """How to time a bundle, and on whose pictures and texts."""

    device: str = "local"
    threads: int = 1
    more_threads: tuple[int, ...] = ()  # that programs are timed with as well, afterwards
    rounds: int = ROUNDS  # of each repeat
    repeats: int = REPEATS  # of loading and of the rounds, each in new processes
    cool_c: float | None = None  # as warm as a device may be when a repeat begins; None is 3 C above the start
    cooldown_s: float = COOLDOWN_S  # that a repeat waits for it at most
    data: str = "emoji"
    style: str = TEST_STYLE
    runtime: str | None = None  # whose programs to time; none named means the first of the bundle
    runner: str | None = None  # native runner of one's own, for an Android device
    roofline: bool = False  # compare with the peaks of the runtime as well, measured in the same run
    minutes: float | None = None  # that the slowest program runs without a pause afterwards, for heat to show
    profile: bool = False  # name the hottest operators as well, on this machine alone

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 < self.minutes <= MOST_MINUTES:
            raise ValueError(f"minutes {self.minutes:g}; expected more than 0 and {MOST_MINUTES} at most")
        if self.threads < 1 or self.repeats < 1 or self.rounds < 2:
            raise ValueError(
                f"threads {self.threads}, repeats {self.repeats}, rounds {self.rounds}; expected 1, 1 and 2 or more"
            )
        counts = (self.threads, *self.more_threads)
        if min(counts) < 1 or len(set(counts)) < len(counts):
            raise ValueError(f"threads {', '.join(map(str, counts))}; expected each number once, and 1 or more")
        if not 0 <= self.cooldown_s <= LONGEST_COOLDOWN_S:
            raise ValueError(f"cooldown_s {self.cooldown_s:g}; expected 0 to {LONGEST_COOLDOWN_S}")
