"""Four rules for a leaf function, so that XLA holds no array of a parameter's size during an update.

A *leaf function* computes the update of one parameter. XLA compiles it into loops over entries, and an array
that a second loop needs is written to memory and read again. Whether that happens depends on how the arithmetic
is written:

1. **Compute twice what two loops need.** XLA holds an array between a sum over it and the loop that uses the
   sum. Take its inputs through :func:`rematerialise` for one of the two, and the array becomes part of both
   loops. Where the norm is of an array that another transformation computes, ``optimiz.low_memory_update``
   (:func:`low_memory`) does this for a whole chain. A scalar factor goes through with the array that it scales:
   shared by several leaves, it would be held in memory, broadcast to their shapes. Arrays that are reduced
   together, such as the moments whose scales ``low_bit`` needs, go through one barrier (:func:`reduced`):
   with a barrier each, every reduction would read the gradient again.
2. **Share no intermediate array between two results.** Compute ``limited_square(g)`` for the accumulator and
   ``squarable(g)`` for the direction, each from ``g``.
3. **Read the direction off the new state.** The new state takes the place of the old one in memory; a direction
   that is computed from the old one needs a copy of it.
4. **Select between scalars, not between arrays.** XLA may hold the result of a select for a sum over it. Write
   ``x + (1 - sign(x))`` (:func:`~optimiz.numerics.nonzero_divisor`) or ``x + (g - g)``
   (:func:`~optimiz.numerics.squarable`), or select a scalar and multiply.

What breaking each rule costs, in bytes held per entry of float32 parameters (two matrices of 768 × 3072 and two
biases; bfloat16 where the table says so):

=====================================  ======  ======  ===========
rule and where it is broken            CPU     H200    TPU v5e
=====================================  ======  ======  ===========
1: ``adafactor``                       8.0     0.005   0.15
1: ``sgd_sai``, bfloat16               4.0     0.003   0.15
1: ``clip_by_global_norm``, bfloat16   4.0     0.001   0.13
1: ``lamb``, no ``low_memory``         4.0     4.0     0.22
2: ``adagrad``                         4.0     0.0     0.0
3: ``lion``                            4.0     0.0     0.0
4: ``lamb``                            4.0     0.004   0.36
=====================================  ======  ======  ===========

With the rules kept, all of them hold at most 0.01 on the CPU and the H200, and 0.1 to 0.36 on the TPU. So on
accelerators XLA fuses nearly all of this by itself, except for ``low_memory`` on the H200. Measured with JAX
0.10.2 (jax-cuda13-pjrt 0.10.2, libtpu 0.0.52) as the ``memory_analysis()`` of the program that each device's
own compiler makes. ``tests/test_update_memory.py`` holds the CPU to these numbers.

The time to compile has two rules of its own. Reduce one scalar per leaf through an array, :func:`stacked`: XLA
copies a chain of scalars into every loop that uses its end, so that compiling ``sgd_sai`` with
``normalize="max"`` would take 4 and 14 CPU seconds for 32 and 64 leaves, not 0.9 and 1.3. And let the loops of
equal leaves differ in no constant, :func:`operand`, as a CPU's and a GPU's compiler make equal loops once.
"""

from optimiz.numerics.fusion.deferred import Deferred as Deferred
from optimiz.numerics.fusion.deferred import after_sums as after_sums
from optimiz.numerics.fusion.deferred import any_nan as any_nan
from optimiz.numerics.fusion.deferred import materialise as materialise
from optimiz.numerics.fusion.deferred import programs as programs
from optimiz.numerics.fusion.deferred import reduced as reduced
from optimiz.numerics.fusion.equations import inlined as inlined
from optimiz.numerics.fusion.equations import results_of as results_of
from optimiz.numerics.fusion.followed import deferred as deferred
from optimiz.numerics.fusion.followed import given as given
from optimiz.numerics.fusion.followed import is_entry_by_entry as is_entry_by_entry
from optimiz.numerics.fusion.followed import low_memory as low_memory
from optimiz.numerics.fusion.rematerialise import rematerialise as rematerialise
from optimiz.numerics.fusion.scalars import all_of as all_of
from optimiz.numerics.fusion.scalars import operand as operand
from optimiz.numerics.fusion.scalars import stacked as stacked
