"""Resource managers: what builds images and runs pairs of SL and ML program on this host, behind one interface."""
