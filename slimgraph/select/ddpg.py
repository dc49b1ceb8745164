"""Deep deterministic policy gradients: an actor, a critic, and what they learn from."""

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

WIDTH, BATCH = 300, 64
_TAU, _BASELINE = 0.01, 0.5


@dataclass(frozen=True, eq=False)
class Step:
    """One decision.

    Attributes:
        state: What was known. Shape: (features,).
        action: What was done, in [0, 1], after the budget had its say.
        reward: Of the whole episode.
        after: What was known next; zeros behind the last decision.
        last: Whether it was the last.
    """

    state: Tensor
    action: float
    reward: float
    after: Tensor
    last: bool


@dataclass(eq=False)
class Learner:
    """An actor and its critic; mutable because they learn.

    Attributes:
        features: Size of a state.
        capacity: How many decisions are remembered.
        seed: Of the weights and of what is drawn.

    Source: Lillicrap et al., Continuous Control with Deep Reinforcement Learning, ICLR 2016,
    algorithm 1; sizes, rates and the moving baseline of rewards as in the code of CACP.
    """

    features: int
    capacity: int
    seed: int
    memory: deque[Step] = field(init=False)
    baseline: float | None = None

    def __post_init__(self) -> None:
        """Make the networks, without touching anybody else's random numbers."""
        self.memory = deque(maxlen=self.capacity)
        self.chance = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.actor, self.slow_actor = _network(self.features), _network(self.features)
            self.critic, self.slow_critic = _network(self.features + 1), _network(self.features + 1)
        self.slow_actor.load_state_dict(self.actor.state_dict())
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.acting = Adam(self.actor.parameters(), 1e-4)
        self.judging = Adam(self.critic.parameters(), 1e-3)

    @torch.no_grad()
    def act(self, state: Tensor, noise: float = 0.0) -> float:
        """Return an action in [0, 1], with normal noise cut off at these bounds if asked for."""
        action = float(self.actor(state).sigmoid())
        for _ in range(100 if noise else 0):
            found = action + noise * float(torch.randn((), generator=self.chance))
            if 0 <= found <= 1:
                return found
        return action

    def draw(self) -> float:
        """Return any action."""
        return float(torch.rand((), generator=self.chance))

    def remember(self, steps: list[Step]) -> None:
        """Store an episode, and let its reward move the baseline."""
        self.memory.extend(steps)
        reward = steps[-1].reward
        old = reward if self.baseline is None else self.baseline
        self.baseline = _BASELINE * old + (1 - _BASELINE) * reward

    def learn(self, times: int) -> None:
        """Update both networks on batches drawn from what is remembered."""
        for _ in range(times):
            own = torch.randint(len(self.memory), (BATCH,), generator=self.chance).tolist()
            steps = [self.memory[index] for index in own]
            states = torch.stack([step.state for step in steps])
            actions = torch.tensor([[step.action] for step in steps])
            wanted = self._wanted(steps)
            _descend(self.judging, F.mse_loss(self.critic(_joined(states, actions)), wanted))
            made = self.actor(states).sigmoid()
            _descend(self.acting, -self.critic(_joined(states, made)).mean())
            for fast, slow in ((self.actor, self.slow_actor), (self.critic, self.slow_critic)):
                for new, old in zip(fast.parameters(), slow.parameters(), strict=True):
                    old.data.lerp_(new.data, _TAU)

    @torch.no_grad()
    def _wanted(self, steps: list[Step]) -> Tensor:
        """Return each reward above the baseline, and what the critic expects after it."""
        after = torch.stack([step.after for step in steps])
        value = self.slow_critic(_joined(after, self.slow_actor(after).sigmoid()))
        goes_on = torch.tensor([[float(not step.last)] for step in steps])
        rewards = torch.tensor([[step.reward - (self.baseline or 0.0)] for step in steps])
        wanted: Tensor = rewards + goes_on * value
        return wanted


def _network(inputs: int) -> nn.Sequential:
    layers = (nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


def _joined(states: Tensor, actions: Tensor) -> Tensor:
    return torch.cat([states, actions], 1)


def _descend(optimizer: Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
