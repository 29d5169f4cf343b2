"""A base model by diffusers and transformers behind the ports, from a name to networks.

find_base    what the user named: a folder, a file, a hub id, or the embedded one
base_configs   its configurations, each value checked once by config_rules; tokenizer: its tokenizer, likewise
read_base    its mapped tensors, beside the configurations; single_file splits a checkpoint into parts
build_networks   networks from these, with no more memory than the weights take
load_base    all of it, checked: VAE, UNet, text encoder and noise schedule
networks, text, vae_layers   the adapters behind the ports
"""
