"""The mathematics again, in float64 and plain loops, from SciPy and NumPy alone.

Nothing here imports nbrnn, or it would prove nothing.  One sequence at a time, one step at a time.
"""
