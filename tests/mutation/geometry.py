"""Flat and curved spaces."""

from __future__ import annotations

from mutant import Mutant

FLAT, PRODUCT, RIEMANNIAN = "spaces/euclidean.py", "spaces/product.py", "spaces/riemannian.py"
SPHERE, TORUS, SO3, QUATERNIONS = "spaces/sphere.py", "spaces/torus.py", "spaces/so3.py", "spaces/quaternions.py"

MUTANTS = (
    Mutant(FLAT, "a_next - a * s_next / s", "a_next - a", "schedules"),
    Mutant(RIEMANNIAN, "(1 - s_next / s) * self.log(x, data)", "(1 - s / s_next) * self.log(x, data)", "schedules"),
    Mutant(
        PRODUCT,
        "space.approach(x[name], data[name], t, t_next, self.schedules.get(name, interpolant))",
        "space.approach(x[name], data[name], t, t_next, interpolant)",
        "schedules",
    ),
    Mutant(
        PRODUCT,
        "target, x[name], t, self.schedules.get(name, interpolant))",
        "target, x[name], t, interpolant)",
        "schedules",
    ),
    Mutant(FLAT, "return y - x", "return x - y", "product"),
    Mutant(FLAT, "(c.a * x1 + c.s * x0)", "(c.a * x0 + c.s * x1)", "flow product"),
    Mutant(FLAT, "(c.da * x1 + c.ds * x0)", "(c.da * x1 - c.ds * x0)", "flow product"),
    Mutant(FLAT, "torch.lerp(x0, x1,", "torch.lerp(x1, x0,", "product"),
    Mutant(FLAT, "flat.shape[1] * math.log(2 * math.pi)) / 2", "flat.shape[1] * math.log(2 * math.pi))", "likelihood"),
    Mutant(
        PRODUCT,
        "for name, space in self.components.items()]).sum(0)",
        "for name, space in self.components.items()]).mean(0)",
        "likelihood",
    ),
    Mutant(
        PRODUCT,
        "math.sqrt(self.weights[name]) * space.residual",
        "self.weights[name] * space.residual",
        "spaces/training",
    ),
    Mutant("spaces/zero_mean.py", "return x - mean * present", "return x - mean", "spaces/zero_mean"),
    Mutant("spaces/zero_mean.py", "reshape(len(x), -1).sum(1) - means", "reshape(len(x), -1).sum(1)", "likelihood"),
    Mutant(RIEMANNIAN, "(c.da * rate).to(x1.dtype)", "rate.to(x1.dtype)", "spaces/geometry"),
    Mutant(
        RIEMANNIAN,
        "c.da / c.s * self.log(x, prediction)",
        "c.da / c.a * self.log(x, prediction)",
        "spaces/geometry",
    ),
    Mutant(RIEMANNIAN, "c.s / c.da * prediction", "c.s * c.da * prediction", "spaces/geometry"),
    Mutant(SPHERE, "cosine = 1 - dot(chord, chord) / 2", "cosine = 1 - dot(chord, chord)", "spaces/geometry"),
    Mutant(SPHERE, "cosine * u - a * sinc * square * x0", "cosine * u + a * sinc * square * x0", "spaces/geometry"),
    Mutant(SPHERE, "return 2 * torch.atan2(near, far)", "return torch.atan2(near, far)", "spaces/geometry"),
    Mutant(SPHERE, "v - 2 * dot(y, v)", "v - dot(y, v)", "spaces/geometry"),
    Mutant(
        SPHERE,
        "excess * (square * back - dot(u, back) * u)",
        "excess * (square * back + dot(u, back) * u)",
        "spaces/solving",
    ),
    Mutant(
        TORUS, "difference - self.period * torch.round(", "difference - self.period * torch.floor(", "spaces/geometry"
    ),
    Mutant(TORUS, "self.log(x, y).abs()", "(y - x).abs()", "spaces/geometry couplings/spaces"),
    Mutant(SO3, "return 4 * torch.atan2(torch.minimum", "return 2 * torch.atan2(torch.minimum", "spaces/rotations"),
    Mutant(RIEMANNIAN, "squares.flatten(2).sum(2)", "squares.flatten(2).mean(2)", "spaces/geometry couplings/spaces"),
    Mutant(
        PRODUCT,
        "self.weights[name] * space.squared_distances",
        "self.weights[name] ** 2 * space.squared_distances",
        "couplings/spaces spaces/training",
    ),
    Mutant("spaces/zero_mean.py", ".square() / count", ".square() * count", "couplings/spaces"),
    Mutant(
        FLAT,
        "squares = first.square().sum(1)[:, None] - 2 * first @ second.mT",
        "squares = first.square().sum(1)[:, None] - first @ second.mT",
        "couplings couplings/sinkhorn couplings/entropic",
    ),
    Mutant(
        FLAT,
        "first, second = first - centre, second - centre",
        "first, second = first, second - centre",
        "couplings couplings/sinkhorn",
    ),
    Mutant(TORUS, "-x[0].numel() * math.log(self.period)", "x[0].numel() * math.log(self.period)", "likelihood"),
    Mutant(
        SO3,
        "quaternions.log(multiply(conjugate(x), y))",
        "quaternions.log(multiply(y, conjugate(x)))",
        "spaces/rotations spaces/geometry",
    ),
    Mutant(
        SO3,
        "normalize(multiply(x, quaternions.exp(v)))",
        "normalize(multiply(quaternions.exp(v), x))",
        "spaces/rotations spaces/geometry",
    ),
    Mutant(SO3, "4 * torch.atan2(torch.minimum", "2 * torch.atan2(torch.minimum", "spaces/rotations spaces/geometry"),
    Mutant(SO3, "w + first / 2 + coefficient", "w - first / 2 + coefficient", "spaces/solving"),
    Mutant(
        SO3,
        "quaternions.exp(-self.log(x, y) / 2)",
        "quaternions.exp(self.log(x, y) / 2)",
        "spaces/geometry spaces/rotations",
    ),
    Mutant(
        QUATERNIONS,
        "qw * px + pw * qx + qy * pz - qz * py",
        "qw * px + pw * qx - qy * pz + qz * py",
        "spaces/rotations",
    ),
    Mutant(
        QUATERNIONS, "series = (2 - 2 / 3 * square", "series = (1 - 2 / 3 * square", "spaces/rotations spaces/geometry"
    ),
    Mutant(QUATERNIONS, "2 * torch.atan2(norm, w) / norm", "torch.atan2(norm, w) / norm", "spaces/rotations"),
    Mutant(
        QUATERNIONS, "torch.cat((cosine, sinc * v / 2), -1)", "torch.cat((cosine, sinc * v), -1)", "spaces/rotations"
    ),
)
