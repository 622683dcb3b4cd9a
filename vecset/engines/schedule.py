"""The learning rate: linear warm-up, then a cosine down to the minimum, set before every optimizer step."""

import math


def learning_rate(epoch, *, lr, min_lr, warmup_epochs, epochs):
    """The rate at `epoch`, a real number (epoch + step / steps per epoch).

    0 at epoch 0, linear up to `lr` at `warmup_epochs`, then min_lr + (lr - min_lr) (1 + cos(pi t)) / 2, where t goes
    from 0 to 1 at `epochs` (Loshchilov and Hutter, SGDR, ICLR 2017; as in facebookresearch/mae)."""
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    t = min(1.0, (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-12))
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * t))


def scaled_rate(blr, effective_batch):
    """The linear scaling rule (Goyal et al., 2017): `blr` is the rate for 256 cases per optimizer step."""
    return blr * effective_batch / 256
