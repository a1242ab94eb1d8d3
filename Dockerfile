# videomem with the pinned versions of constraints.txt.
#
#   docker build -t videomem .                                   # for NVIDIA GPUs: torch's wheels bring CUDA
#   docker build -t videomem --build-arg TORCH_INDEX=URL .    # URL: PyTorch's index of CPU wheels
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" --user "$(id -u):$(id -g)" videomem extract --config ...
#
# /work is also the home folder, so that downloaded weights are kept in .cache of the mounted folder.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

ARG TORCH_INDEX
ARG EXTRAS=hdf5,onnx,parquet
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /src
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch torchvision

COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY videomem videomem
RUN pip install --constraint constraints.txt ".[$EXTRAS]" \
 && useradd --create-home --home-dir /work --uid 1000 videomem

ENV HOME=/work NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /work
USER 1000
ENTRYPOINT ["videomem"]
CMD ["--help"]
