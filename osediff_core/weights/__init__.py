"""Weights of one-step methods: files and what they are, reading and writing, fitting and merging, fetching.

tensor_file, write_file   files of tensors, of any kind
formats/            one file a format, and the table of them: another method begins here
one_step_weights    what every format is read into: LoRA sets, timestep, rule
checkpoint          a file -> weights -> a file
fit, merge          weights on a base: do they fit, and merging them with a strength
identify, describe  what any other file is, for messages and for `osediff info`
lora_targets        the modules that OSEDiff adapts
published, download the published files, and fetching them on request
"""
