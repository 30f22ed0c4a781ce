"""From files to cooperative samples: OPV2V reader, synthetic OPV2V, sampling, augmentation, collation."""
