"""The metrics against closed forms, exact assignment, scikit-learn's neighbours and scipy's matrix root."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from rectiflow import metrics
from rectiflow.errors import DataError
from rectiflow.metrics import (
    diversity_ratio,
    frechet_distance,
    kernel_distance,
    memorisation_ratio,
    prdc,
    sliced_wasserstein,
)


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def exact_gaussian_sample(mean: torch.Tensor, covariance: torch.Tensor, n: int, g: torch.Generator) -> torch.Tensor:
    """A set whose sample mean and covariance are the given ones to rounding."""
    z = normal(g, n, len(mean))
    z = z - z.mean(dim=0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    return z @ torch.linalg.cholesky(covariance).T + mean


class TestFrechet:
    def test_commuting_gaussians_closed_form(self, generator: torch.Generator) -> None:
        # Diagonal covariances: |m|^2 + sum (sigma - tau)^2.
        sigma, tau, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 0.2, 0.5]), torch.tensor([1.0, -2.0, 0.5])
        x = exact_gaussian_sample(torch.zeros(3), torch.diag(sigma**2), 400, generator)
        y = exact_gaussian_sample(shift, torch.diag(tau**2), 300, generator)
        expected = float(shift.square().sum() + (sigma - tau).square().sum())
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 16), (20, 30, 64), (100, 40, 64)])
    def test_every_route_agrees_with_scipy(self, generator: torch.Generator, n: int, m: int, d: int) -> None:
        x = normal(generator, n, d) @ normal(generator, d, d) + 1
        y = normal(generator, m, d) @ normal(generator, d, d)
        a, b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
        jitter = 1e-9 * np.eye(d)  # sqrtm needs full rank
        trace = np.trace(a + b - 2 * np.real(sqrtm((a + jitter) @ (b + jitter))))
        expected = float((x.mean(dim=0) - y.mean(dim=0)).square().sum()) + trace
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)
        x, y = metrics._centred(x), metrics._centred(y)
        by_singular = metrics._overlap_by_singular_values(x, y)
        by_eigen = metrics._overlap_by_eigenvalues(x.T @ x, y.T @ y)
        assert float(by_singular) == pytest.approx(float(by_eigen), rel=1e-6)

    def test_a_set_against_itself_is_zero(self, generator: torch.Generator) -> None:
        for shape in ((300, 32), (30, 64)):
            x = normal(generator, *shape)
            assert abs(frechet_distance(x, x)) < 1e-4

    def test_float32_features_are_worked_on_in_float64(self, generator: torch.Generator) -> None:
        x, y = normal(generator, 500, 8) * 3 + 50, normal(generator, 500, 8) * 3 + 50
        assert frechet_distance(x.float(), y.float()) == pytest.approx(frechet_distance(x, y), rel=1e-5)


class TestKernelDistance:
    def test_matches_scikit_learn_kernel_matrices(
        self, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(metrics, "_BLOCK", 7)
        x, y = normal(generator, 30, 5), normal(generator, 23, 5) + 0.5
        kxx, kyy, kxy = (
            polynomial_kernel(a.numpy(), b.numpy(), degree=3, gamma=1 / 5, coef0=1) for a, b in ((x, x), (y, y), (x, y))
        )
        within_x = (kxx.sum() - np.trace(kxx)) / (30 * 29)
        within_y = (kyy.sum() - np.trace(kyy)) / (23 * 22)
        assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * kxy.mean(), rel=1e-10)

    def test_unbiased_for_one_distribution(self, generator: torch.Generator) -> None:
        values = torch.tensor([kernel_distance(normal(generator, 50, 4), normal(generator, 40, 4)) for _ in range(400)])
        assert abs(float(values.mean())) < 4 * float(values.std()) / 20
        # The biased estimate (diagonals kept) would sit far outside that band.
        assert float(values.std()) / 20 < 0.02


class TestSlicedWasserstein:
    def test_one_dimension_equals_exact_assignment(self, generator: torch.Generator) -> None:
        # 6 against 4 samples: the exact plan is an assignment of each repeated to 12.
        x, y = normal(generator, 6, 1), normal(generator, 4, 1) * 2 + 1
        cost = cdist(x.repeat_interleave(2, dim=0), y.repeat_interleave(3, dim=0), "sqeuclidean")
        expected = math.sqrt(cost[linear_sum_assignment(cost)].mean())
        assert sliced_wasserstein(x, y, generator) == pytest.approx(expected, rel=1e-9)

    def test_shift_of_a_set(self, generator: torch.Generator) -> None:
        # Each direction sees shift . u, whose mean square is |shift|^2 / D.
        x = normal(generator, 50, 6)
        shift = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0, 0.0])
        value = sliced_wasserstein(x, x + shift, generator, directions=20000) ** 2
        # Var of (shift . u)^2 is |shift|^4 (3 / (D (D + 2)) - 1 / D^2).
        error = 25 * math.sqrt((3 / 48 - 1 / 36) / 20000)
        assert value == pytest.approx(25 / 6, abs=4 * error)

    def test_repeated_samples_change_nothing(self, generator: torch.Generator) -> None:
        x, y = normal(generator, 7, 3), normal(generator, 7, 3)
        one, two = (torch.Generator().manual_seed(3) for _ in range(2))
        assert sliced_wasserstein(x.repeat(3, 1), y, one) == pytest.approx(sliced_wasserstein(x, y, two), rel=1e-12)


class TestNeighbours:
    def test_matches_scikit_learn(self, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics, "_BLOCK", 13)
        real, fake = normal(generator, 60, 3), normal(generator, 45, 3) * 0.7 + 0.5
        r, f = real.numpy(), fake.numpy()
        real_radius = NearestNeighbors(n_neighbors=4).fit(r).kneighbors(r)[0][:, -1]
        fake_radius = NearestNeighbors(n_neighbors=4).fit(f).kneighbors(f)[0][:, -1]
        distance = cdist(r, f)
        seen = prdc(real, fake)
        assert seen.precision == pytest.approx((distance < real_radius[:, None]).any(axis=0).mean())
        assert seen.recall == pytest.approx((distance < fake_radius[None]).any(axis=1).mean())
        assert seen.density == pytest.approx((distance < real_radius[:, None]).sum(axis=0).mean() / 3)
        assert seen.coverage == pytest.approx((distance < real_radius[:, None]).any(axis=1).mean())
        assert 0 < seen.recall < seen.precision < 1

    def test_a_collapsed_generator_is_precise_but_covers_nothing(self, generator: torch.Generator) -> None:
        real = normal(generator, 300, 2)
        seen = prdc(real, 0.01 * normal(generator, 300, 2))
        assert seen.precision == 1
        assert seen.recall < 0.05
        assert seen.coverage < 0.2

    def test_the_same_distribution_has_density_one(self, generator: torch.Generator) -> None:
        assert prdc(normal(generator, 2000, 2), normal(generator, 2000, 2)).density == pytest.approx(1, abs=0.1)


class TestDiversityAndMemorisation:
    def test_diversity_matches_scipy_class_by_class(self, generator: torch.Generator) -> None:
        x, real = normal(generator, 40, 3), normal(generator, 60, 3)
        labels, real_labels = torch.arange(40) % 3, torch.arange(60) % 4
        own = sum(pdist(x[labels == c].numpy()).mean() for c in range(3))
        others = sum(pdist(real[real_labels == c].numpy()).mean() for c in range(3))
        assert diversity_ratio(x, labels, real, real_labels) == pytest.approx(own / others, rel=1e-6)

    def test_halved_spread_around_any_class_mean_halves_diversity(self, generator: torch.Generator) -> None:
        real, labels = normal(generator, 50, 4), torch.arange(50) % 2
        assert diversity_ratio(real / 2 + 10 * labels[:, None], labels, real, labels) == pytest.approx(0.5, rel=1e-6)

    def test_memorisation_of_copies_of_train_and_of_held_out(self, generator: torch.Generator) -> None:
        train, held_out = normal(generator, 80, 3), normal(generator, 40, 3)
        nearest = NearestNeighbors(n_neighbors=1).fit(train.numpy())
        x = normal(generator, 30, 3) * 2
        expected = nearest.kneighbors(x.numpy())[0].mean() / nearest.kneighbors(held_out.numpy())[0].mean()
        assert memorisation_ratio(x, train, held_out) == pytest.approx(expected, rel=1e-6)
        assert memorisation_ratio(train[:30], train, held_out) < 1e-5
        assert memorisation_ratio(held_out, train, held_out) == pytest.approx(1)


class TestErrors:
    @pytest.mark.parametrize(
        ("x", "y", "words"),
        [
            (torch.zeros(3, 4), torch.zeros(3, 5), "same D"),
            (torch.zeros(3, 4, 1), torch.zeros(3, 4), "flatten"),
            (torch.zeros(1, 4), torch.zeros(3, 4), "at least 2"),
            (torch.full((3, 4), math.nan), torch.zeros(3, 4), "NaN"),
        ],
    )
    def test_sets_that_do_not_fit(self, x: torch.Tensor, y: torch.Tensor, words: str) -> None:
        with pytest.raises(DataError, match=words):
            frechet_distance(x, y)

    def test_too_few_for_the_neighbours(self) -> None:
        with pytest.raises(DataError, match="at least 4"):
            prdc(torch.eye(3), torch.eye(3))

    def test_no_class_with_two_samples(self) -> None:
        with pytest.raises(DataError, match="more samples of each class"):
            diversity_ratio(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3))

    def test_held_out_copies(self, generator: torch.Generator) -> None:
        train = normal(generator, 50, 3)
        with pytest.raises(DataError, match="duplicates"):
            memorisation_ratio(train + 1, train, train[:30])
