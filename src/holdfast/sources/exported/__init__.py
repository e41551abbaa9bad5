"""Exported programs (`.pt2`), read without `torch.export.load`.

That function unpickles the sample inputs that every archive holds (falling back to an unsafe load
when the safe one fails), unpickles weights that say so, hands shape expressions to sympy, which
evaluates them, and looks operations up anywhere in torch. So nothing of it is used here: the graph
is JSON, the weights are raw bytes, and the operations are a list of ATen's.
"""
