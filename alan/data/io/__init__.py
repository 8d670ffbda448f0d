"""File formats: video, DICOM, NIfTI, MetaImage and pictures to grey frames."""
