"""What people say: blind votes on pairs of completions, and judges measured against them."""
