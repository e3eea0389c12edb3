"""One user attacks the gateway, while another one works with it: `make hostile`."""
