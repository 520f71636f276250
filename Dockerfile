# An image of either set of requirements: docs/containers.md.
#   docker build -t caprl_native:cuda .
#   docker build --build-arg SET=cpu -t caprl_native:cpu .
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}

# cpu or cuda; the user's id; settings of pip, where there are any.
ARG SET=cuda
ARG USER_ID=10001
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# make and git for the Makefile's targets, a compiler for the kernels that are made at run time, libnuma for vLLM on CPUs.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends build-essential git libnuma1 make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid ${USER_ID} caprl && mkdir /app && chown caprl:caprl /app
USER caprl
WORKDIR /app

# The environment first: a change of the code does not install it anew.
COPY --chown=caprl:caprl requirements requirements
COPY --chown=caprl:caprl tools/setup.sh tools/setup.sh
ENV SET=${SET}
RUN bash tools/setup.sh && rm -rf /home/caprl/.cache

COPY --chown=caprl:caprl . .
# CUDA's libraries are among the pinned packages; the driver is the host's.
ENV PATH=/app/.venv/bin:${PATH} NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["make", "help"]
