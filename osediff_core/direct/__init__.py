"""Methods that are one network from image to image, without a base, a prompt or a schedule.

adcsr       AdcSR's network
upscaler    GANs and other upscalers, by spandrel
restorer    a network as a generator's twin: any size, tiles, precision
load        one of the two from files

A network that is to run here is a file with `build`, and its line in `load.NETWORKS`.
"""
